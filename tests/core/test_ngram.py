"""Drafting by lookup."""

from random import Random

import pytest

from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.drafting.guessers import NgramGuesser, Stepwise
from dsd_core.decoding.drafting.ngram import LONGEST, NgramIndex
from dsd_core.decoding.ids import TokenId


def tokens_of(text: str) -> tuple[TokenId, ...]:
    return tuple(TokenId(ord(letter)) for letter in text)


def after(text: str, tail: str = "") -> dict[str, int]:
    index = NgramIndex()
    index.follow(tokens_of(text))
    return {chr(token): length for token, length in index.after(tokens_of(tail)).items()}


def proposed(context: str, steps: int = 4) -> str:
    (proposal,) = Stepwise(NgramGuesser()).propose(Contexts(tokens_of(context), ((),)), steps=steps, candidates=1)
    return "".join(chr(drafted.token) for run in proposal for drafted in run)


def test_what_followed_before_is_proposed() -> None:
    assert proposed("the cat sat, the c") == "at s"


def test_the_latest_occurrence_counts() -> None:
    assert after("abcX abcY abc") == {"Y": 3}


def test_longer_ends_come_first() -> None:
    assert after("1abcX 2zcY 3abc") == {"X": 3, "Y": 1}


def test_a_new_last_token_proposes_nothing() -> None:
    assert proposed("abcdef") == ""


def test_no_context_is_too_short() -> None:
    assert proposed("") == proposed("a") == ""


def test_no_more_than_asked() -> None:
    assert proposed("abab", 1) == "a"


def test_what_repeats_goes_on_repeating() -> None:
    assert proposed("xaxa", 5) == "xaxax"


def test_a_tail_is_part_of_the_end() -> None:
    assert after("abcX abdY.a", "b") == {"d": 2}
    assert after("abcX abdY.a", "bc") == {"X": 3}
    assert after("abcX", "zz") == {}


def follow_all(texts: list[list[int]]) -> NgramIndex:
    index = NgramIndex()
    for text in texts:
        index.follow([TokenId(token) for token in text])
    return index


@pytest.mark.parametrize("seed", range(20))
def test_a_text_that_grows_and_is_rewound_is_as_if_read_at_once(seed: int) -> None:
    chance, text, texts = Random(seed), [], []
    for _ in range(12):
        del text[chance.choice([len(text), len(text), chance.randrange(len(text) + 1)]) :]
        text = text + chance.choices(range(3), k=chance.randrange(6))
        texts.append(text)
    grown, fresh = follow_all(texts), follow_all(texts[-1:])
    tails = [tuple(map(TokenId, chance.choices(range(3), k=length))) for length in range(LONGEST + 1)]
    assert [list(grown.after(tail).items()) for tail in tails] == [list(fresh.after(tail).items()) for tail in tails]
