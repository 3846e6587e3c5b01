"""Rows of tokens with a weight for each, packed from documents."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import torch
from tokenizers import Tokenizer
from torch import Tensor

from dsd_core.embedded.corpus import Document
from dsd_core.embedded.vocabulary import END_ID

_OPERANDS: Final = re.compile(r"\d+ [-+*/] \d+ = ")
_RESULTS: Final = re.compile(r"(?<== )\d+|(?<=#### )\d+")
_OPERAND_WEIGHT: Final = 2.0
_RESULT_WEIGHT: Final = 3.0


@dataclass(frozen=True)
class Batch:
    """Rows to learn: the weight stands beside the token that is to be predicted, and is 0 for padding."""

    tokens: Tensor  # [rows, length] int64
    weights: Tensor  # [rows, length] float32


@dataclass
class Row:
    """A row under construction."""

    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def extend(self, tokens: list[int], weights: list[float]) -> None:
        self.tokens += tokens
        self.weights += weights

    def cut(self, length: int) -> "Row":
        return Row(self.tokens[:length], self.weights[:length])

    def padded(self, length: int) -> "Row":
        missing = length - len(self.tokens)
        return Row(self.tokens + [END_ID] * missing, self.weights + [0.0] * missing)


def encode(tokenizer: Tokenizer, document: Document) -> Row:
    """The document's tokens with their weights; prompt and body are encoded apart, as they are when it is used."""
    head = tokenizer.encode(document.prompt).ids
    body = tokenizer.encode(document.body)
    weights = _emphasis(document.body, body.offsets) if document.emphasises_numbers else [1.0] * len(body.ids)
    return Row(head + body.ids + [END_ID], [document.prompt_weight] * len(head) + weights + [1.0])


def rows(encoded: Iterator[Row], length: int, lookahead: int = 24) -> Iterator[Row]:
    """Fill rows of `length` with whole documents, first fit among `lookahead` waiting ones; a longer one is cut."""
    source = (row.cut(length) for row in encoded)
    waiting = list(islice(source, lookahead))
    while waiting:
        row = Row()
        while (fit := _first_fit(waiting, length - len(row.tokens))) is not None:
            document = waiting.pop(fit)
            row.extend(document.tokens, document.weights)
            waiting += islice(source, 1)
        yield row.padded(length)


def batches(source: Iterator[Row], num_rows: int) -> Iterator[Batch]:
    """Stack rows, without end as long as `source` is."""
    while chunk := list(islice(source, num_rows)):
        tokens = torch.tensor([row.tokens for row in chunk])
        yield Batch(tokens, torch.tensor([row.weights for row in chunk]))


def _first_fit(waiting: list[Row], room: int) -> int | None:
    return next((index for index, row in enumerate(waiting) if len(row.tokens) <= room), None)


def _emphasis(text: str, offsets: list[tuple[int, int]]) -> list[float]:
    """A weight for each token: more for the numbers of equations, most for what has to be computed."""
    weight = [1.0] * len(text)
    for pattern, value in ((_OPERANDS, _OPERAND_WEIGHT), (_RESULTS, _RESULT_WEIGHT)):
        for found in pattern.finditer(text):
            weight[found.start() : found.end()] = [value] * (found.end() - found.start())
    return [weight[end - 1] for _, end in offsets]
