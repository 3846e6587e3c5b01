"""The pair's one tokenizer: byte-level BPE that keeps every digit a token of its own and round-trips any text."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

VOCAB_SIZE: Final = 4096
END: Final = "<|endoftext|>"
END_ID: Final = 0
SPECIALS: Final = (END, "<|user|>", "<|assistant|>", "<|system|>")

# A sign takes the spaces around it along when a digit follows (" + " in "12 + 7"), so that equations are short.
_PIECES: Final = r"\d| ?\p{L}+| ?[^\s\p{L}\d]+(?: (?=\d))?|\s+(?!\S)|\s+"

# A user's turn becomes a question; every answer ends as the documents of the training text end.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Question: ' + message['content'] + '\\nAnswer:' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + '<|endoftext|>' }}"
    "{% endif %}{% endfor %}"
)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges from `texts`."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence([Split(Regex(_PIECES), "isolated"), ByteLevel(False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    specials = [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=specials, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` as Hugging Face reads them."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "additional_special_tokens": list(SPECIALS[1:]),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    }
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `save_tokenizer` wrote to `folder`."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
