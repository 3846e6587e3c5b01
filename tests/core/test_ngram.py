"""Drafting by lookup."""

from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.ngram import propose


def proposed(context: str, steps: int = 4) -> str:
    tokens = [TokenId(ord(letter)) for letter in context]
    return "".join(chr(drafted.token) for drafted in propose(tokens, steps))


def test_what_followed_before_is_proposed() -> None:
    assert proposed("the cat sat, the c") == "at s"


def test_the_latest_occurrence_counts() -> None:
    assert proposed("abcX abcY abc", 1) == "Y"


def test_longer_ends_are_tried_first() -> None:
    assert proposed("1abcX 2zcY 3abc", 1) == "X"


def test_a_new_last_token_proposes_nothing() -> None:
    assert proposed("abcdef") == ""


def test_no_context_is_too_short() -> None:
    assert proposed("") == proposed("a") == ""


def test_no_more_than_asked_and_no_more_than_there_is() -> None:
    assert proposed("abab", 1) == "a"
    assert proposed("xaxa", 9) == "xa"
