import pytest
from transformers import AutoTokenizer

from dsd_core.embedded import DRAFTER, TARGET
from dsd_core.embedded.vocabulary import END, END_ID, VOCAB_SIZE, load_tokenizer

_TEXTS = (
    "",
    " ",
    "12 + 34 = 46",
    "  def f(x):\n\treturn 12 \n\n",
    "naïve ☃ 漢字 🦊 \u200b\r\n",
    "\x00\x7f",
    "don't  stop...  ",
)


@pytest.mark.parametrize("text", _TEXTS)
def test_any_text_comes_back(text: str) -> None:
    tokenizer = load_tokenizer(TARGET)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("text", _TEXTS)
def test_transformers_reads_the_same_tokenizer(text: str) -> None:
    ours, theirs = load_tokenizer(TARGET), AutoTokenizer.from_pretrained(TARGET)
    assert theirs(text)["input_ids"] == ours.encode(text).ids
    assert theirs.decode(ours.encode(text).ids) == text


def test_every_digit_is_a_token() -> None:
    assert load_tokenizer(TARGET).encode("12 + 7 = 19").tokens == ["1", "2", "Ġ+Ġ", "7", "Ġ=Ġ", "1", "9"]


def test_the_end_is_one_token() -> None:
    tokenizer = load_tokenizer(TARGET)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    assert tokenizer.encode(END).ids == [END_ID]


def test_both_models_have_the_same_tokenizer() -> None:
    assert (TARGET / "tokenizer.json").read_bytes() == (DRAFTER / "tokenizer.json").read_bytes()


def test_a_conversation_takes_the_shape_of_the_training_text() -> None:
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "Why?"}]
    text = AutoTokenizer.from_pretrained(TARGET).apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "Question: 1 + 1?\nAnswer: 2<|endoftext|>Question: Why?\nAnswer:"
