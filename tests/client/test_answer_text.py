"""Tokens as text: whole characters, nothing of a stop text, and in the end all of it."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dsd_client.answer_text import AnswerText
from tests.conftest import build_tokenizer

BYTE_LEVEL = build_tokenizer()
HALF = "\N{REPLACEMENT CHARACTER}"


def byte_fallback() -> PreTrainedTokenizerFast:
    """As SentencePiece models have it: words with a space in front, and a token for each byte."""
    words = ["<unk>", "▁the", "▁fox", "x", "▁"]
    vocabulary = {word: index for index, word in enumerate(words)} | {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", clean_up_tokenization_spaces=False)


BYTE_FALLBACK = byte_fallback()


class Words:
    """A token is its text."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(self.words[token] for token in token_ids)


def pushed(text: AnswerText, tokens: Sequence[int]) -> list[str]:
    """What each token makes certain, up to the one that completes a stop text, and what is left at the end."""
    parts: list[str] = []
    for token in tokens:
        parts.append(text.push(token))
        if text.stopped:
            break
    return [*parts, text.flush()]


def fallback_tokens(text: str) -> list[int]:
    return [5 + byte for byte in text.encode()]


# -- whole characters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["🙂", "naïve 日本語", "🚀🚀🚀🚀🚀🚀🚀🚀", "a🙂b🙂", "日本語日本語日本語", "👩‍👩‍👧‍👦 family"])
def test_bytes_come_out_as_whole_characters(text: str) -> None:
    for tokenizer, tokens in ((BYTE_FALLBACK, fallback_tokens(text)), (BYTE_LEVEL, _bytes(text))):
        parts = pushed(AnswerText(tokenizer, tokens[:0]), tokens)
        assert "".join(parts) == text
        assert HALF not in "".join(parts)
        assert all(len(part) <= 1 for part in parts)


def test_a_character_comes_with_its_last_byte() -> None:
    tokens = _bytes("🙂x")
    assert pushed(AnswerText(BYTE_LEVEL, []), tokens) == ["", "", "", "🙂", "x", ""]


def test_what_stays_half_comes_at_the_end() -> None:
    assert pushed(AnswerText(BYTE_LEVEL, []), _bytes("a🙂")[:3]) == ["a", "", "", HALF]


@pytest.mark.parametrize("split", [1, 2, 3])
def test_what_the_prompt_left_half_the_answer_completes(split: int) -> None:
    tokens = _bytes("ab🙂cd")
    text = AnswerText(BYTE_LEVEL, tokens[: 2 + split])
    assert "".join(pushed(text, tokens[2 + split :])) == "🙂cd"


def test_a_long_run_of_bytes_in_the_prompt() -> None:
    tokens = fallback_tokens("🙂🙂🙂🙂🙂")
    text = AnswerText(BYTE_FALLBACK, tokens[:16])
    assert "".join(pushed(text, tokens[16:])) == "🙂"


def test_a_prompt_of_broken_characters_alone_is_read_whole() -> None:
    prompt = [_bytes("🙂")[-1]] * 8
    assert "".join(pushed(AnswerText(BYTE_LEVEL, prompt), _bytes("x"))) == BYTE_LEVEL.decode(prompt) + "x"


def test_a_leading_space_is_not_lost() -> None:
    assert pushed(AnswerText(BYTE_FALLBACK, [1]), [2, 2, 3]) == [" fox", " fox", "x", ""]


def test_special_tokens_have_no_text() -> None:
    [a, b] = _bytes("ab")
    assert pushed(AnswerText(BYTE_LEVEL, [a]), [b, 0, b, *[0] * 9, b]) == ["b", "", "b", *[""] * 9, "b", ""]


any_token = st.integers(0, len(BYTE_LEVEL) - 1)


@settings(max_examples=300, deadline=None)
@given(st.lists(any_token, max_size=12), st.lists(any_token, max_size=40))
def test_the_parts_are_the_whole(prompt: list[int], answer: list[int]) -> None:
    """Whatever bytes a model comes up with: nothing is lost, doubled, or shown half."""
    text = AnswerText(BYTE_LEVEL, prompt)
    parts = pushed(text, answer)
    before = BYTE_LEVEL.decode(prompt, skip_special_tokens=True).rstrip(HALF)
    whole = BYTE_LEVEL.decode(prompt + answer, skip_special_tokens=True)
    assert whole == before + "".join(parts)
    assert not any(part.endswith(HALF) for part in parts[:-1])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab é日🙂\n", max_size=30), st.sampled_from(["byte level", "byte fallback"]))
def test_any_text_comes_back(text: str, kind: str) -> None:
    tokenizer, tokens = (BYTE_LEVEL, _bytes(text)) if kind == "byte level" else (BYTE_FALLBACK, fallback_tokens(text))
    context = BYTE_LEVEL("the ")["input_ids"] if kind == "byte level" else [1]
    assert "".join(pushed(AnswerText(tokenizer, context), tokens)) == text


def _bytes(text: str) -> list[int]:
    """A token for each byte, as a model may choose to say it."""
    from tokenizers.pre_tokenizers import ByteLevel

    spelled = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [BYTE_LEVEL.convert_tokens_to_ids(letter) for piece, _ in spelled for letter in piece]


# -- stop texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "stop", "shown"),
    [
        (("a", "STOP", "b"), ["STOP"], ["a", ""]),
        (("a", "S", "T", "OP", "b"), ["STOP"], ["a", "", "", ""]),  # over several tokens
        (("STOP", "b"), ["STOP"], [""]),  # at the very start
        (("S", "TOP"), ["STOP"], ["", ""]),
        (("aSTOPb", "c"), ["STOP"], ["a"]),  # within a token
        (("a", "S", "T", "x", "y"), ["STOP"], ["a", "", "", "STx", "y", ""]),  # it was not one
        (("a", "S", "T"), ["STOP"], ["a", "", "", "ST"]),  # held back to the end
        (("a", "SS", "TOP"), ["STOP"], ["a", "S", ""]),  # overlaps itself
        (("a", "aa", "b", "c"), ["aab"], ["", "a", ""]),
        (("a", "b", "c", "d"), ["bcx", "cd"], ["a", "", "", "b"]),  # two that overlap
        (("xyz",), ["z", "y"], ["x"]),  # the first in the text counts
        (("a", "b"), [""], ["a", "b", ""]),  # an empty one is none
        (("a", "\n", "User", ":"), ["\nUser:"], ["a", "", "", ""]),
    ],
)
def test_a_stop_text_ends_the_answer(words: tuple[str, ...], stop: list[str], shown: list[str]) -> None:
    text = AnswerText(Words("", *words), [], stop)
    parts = pushed(text, range(1, len(words) + 1))
    assert [*parts[:-1], *([parts[-1]] if not text.stopped else [])] == shown
    assert text.stopped == any(mark and mark in "".join(words) for mark in stop)
    assert parts[-1] == "" or not text.stopped


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=12), st.lists(st.text("ab", max_size=4), max_size=3))
def test_stop_texts_as_a_search_in_the_whole_would_find_them(words: list[str], stop: list[str]) -> None:
    text = AnswerText(Words("", *words), [], stop)
    parts = pushed(text, range(1, len(words) + 1))
    consumed = "".join(words[: len(parts) - 1])
    found = [at for mark in stop if mark and (at := consumed.find(mark)) >= 0]
    assert "".join(parts) == consumed[: min(found, default=len(consumed))]
    assert text.stopped == bool(found)
    before = "".join(words[: len(parts) - 2])
    assert not any(mark and mark in before for mark in stop), "it stops with the token that completes a stop text"


def test_a_stop_text_of_the_prompt_is_not_one_of_the_answer() -> None:
    text = AnswerText(Words("ST", "OP", "x"), [0], ["STOP"])
    assert pushed(text, [1, 2]) == ["OP", "x", ""]
