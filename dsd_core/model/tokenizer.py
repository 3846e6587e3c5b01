"""The tokenizer of a model, from the same place and commit as its weights."""

import hashlib
from typing import TYPE_CHECKING

from dsd_core.errors import ModelNotFound
from dsd_core.model.repository import one_line
from dsd_core.model.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""All that a tokenizer can need, and the sampling defaults. A repository has some of them."""


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """Fetch and load the tokenizer alone. Raises ModelNotFound if the model comes without a usable one."""
    from transformers import AutoTokenizer

    for file in TOKENIZER_FILES:
        source.repository.fetch(file)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source.repository.directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelNotFound(
            f"{source.repository} has no usable tokenizer ({one_line(error)}); choose a model that comes with one"
        ) from error
    return tokenizer


def vocabulary_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hex SHA-256 that tokenizers share which number their tokens alike."""
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items()):
        digest.update(f"{number} {len(token)} {token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
