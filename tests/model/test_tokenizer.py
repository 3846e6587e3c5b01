"""The tokenizer comes from where the model comes from, and never with code."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dsd_core.errors import ModelNotFound
from dsd_core.model.source import resolve
from dsd_core.model.tokenizer import load_tokenizer
from tests.model.conftest import Tiny


@pytest.fixture
def directory(llama: Tiny, tmp_path: Path) -> Path:
    """A model's files without a tokenizer."""
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(llama.directory / file)
    return tmp_path


def test_a_tokenizer_of_a_directory(directory: Path) -> None:
    words = Tokenizer(models.WordLevel({"so": 0, "it": 1, "goes": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(directory)
    tokenizer = load_tokenizer(resolve(str(directory)))
    assert tokenizer("so it goes").input_ids == [0, 1, 2]


def test_a_model_without_tokenizer(directory: Path) -> None:
    with pytest.raises(ModelNotFound, match="has no usable tokenizer") as caught:
        load_tokenizer(resolve(str(directory)))
    assert "\n" not in str(caught.value)


def test_a_damaged_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(ModelNotFound, match="has no usable tokenizer"):
        load_tokenizer(resolve(str(directory)))
