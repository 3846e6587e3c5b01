"""Which tokens may never be forgiven."""

import pytest
from transformers import AutoTokenizer

from dsd_core import embedded
from dsd_core.model.token_classes import TokenClass, classify, key_tokens


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        (TokenClass.WORD, [" the", "apples", " That", ".", ", ", "'s", "well-known", " “", " é", " "]),
        (TokenClass.NUMBER, ["7", " 12", "x2", " three", "Half", "½", " dozen"]),
        (TokenClass.OPERATOR, ["+", " -", " * ", "=", "<", "%", " $", "**", " minus", "≤"]),
        (TokenClass.NEGATION, [" not", "No", "n't", " never", " without"]),
        (TokenClass.NAME, [" return", "self", "is_prime", "maxValue", "True"]),
        (TokenClass.STRUCTURE, ["\n", "    ", "(", '"', " '", "####", "\\", ":", "\ufffd"]),
        (TokenClass.END, [""]),
    ],
)
def test_classes(expected: TokenClass, texts: list[str]) -> None:
    assert {text: classify(text) for text in texts} == dict.fromkeys(texts, expected)


def test_all_but_words_and_numbers_are_always_key() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.TARGET)
    key = key_tokens(tokenizer, len(tokenizer) + 3)
    assert key is not None
    assert {*tokenizer.all_special_ids, *tokenizer.encode("+ = (not)")} <= key.always
    assert {*tokenizer.encode("127")} <= key.numbers
    assert not key.always & key.numbers
    assert not (key.always | key.numbers) & {*tokenizer.encode("That is how many apples there are")}
    assert set(range(len(tokenizer), len(tokenizer) + 3)) <= key.always


def test_a_tokenizer_of_bytes_cannot_be_told() -> None:
    class Bytes:
        all_special_ids = ()

        def __len__(self) -> int:
            return 256

        def batch_decode(self, tokens: list[list[int]]) -> list[str]:
            return [bytes(token).decode("utf-8", "replace") for token in tokens]

    assert key_tokens(Bytes(), 256) is None
