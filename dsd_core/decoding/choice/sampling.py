"""How a distribution over tokens is shaped before a token is chosen from it.

The order is that of transformers: repetition penalty, temperature, top-k, top-p.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsd_core.errors import UsageError

COLDEST = 1e-6
"""Lower temperatures above 0 count as this one: no noise makes up for a difference between logits any more, and they would
divide beyond what a float holds."""
STRONGEST = 1000.0
"""Repetition penalty, and the strongest encouragement is its inverse: logits stay finite."""
COLUMNS = 256
"""Enough for every `top_k` and top count in use to be found by way of the best of each."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Temperature 0 is greedy; `top_k` 0, `top_p` 1 and `repetition_penalty` 1 switch those off.

    Raises UsageError for values that mean nothing. An unset seed is drawn by whoever opens the session, and reported.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _require(math.isfinite(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "at least 0")
        _require(0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1")
        _require(self.top_k >= 0, "top-k", self.top_k, "at least 0")
        penalty, weakest = self.repetition_penalty, 1 / STRONGEST
        _require(weakest <= penalty <= STRONGEST, "repetition-penalty", penalty, f"from {weakest:g} to {STRONGEST:g}")
        _require(self.seed is None or 0 <= self.seed < 2**64, "seed", self.seed, "between 0 and 2^64 - 1")


def _require(holds: bool, name: str, value: object, range_: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {value}; it must be {range_}")


def penalised(logits: NDArray[np.float32], history: NDArray[np.int64], penalty: float) -> NDArray[np.float32]:
    """Logits [vocab] with the tokens of `history` made less likely (Keskar et al., arXiv 1909.05858)."""
    if penalty == 1.0 or history.size == 0:
        return logits
    seen = np.unique(history)
    result = logits.copy()
    result[seen] = np.where(result[seen] < 0, result[seen] * penalty, result[seen] / penalty)
    return result


def log_probs(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Log-probabilities [vocab] of the logits at `temperature`; at 0 those of the unscaled logits."""
    # In place from here on: memory for a vocabulary takes longer to get than to fill.
    heights = logits.astype(np.float64)
    if temperature:
        heights /= max(temperature, COLDEST)
    heights -= heights.max()
    heights -= np.log(np.exp(heights).sum())
    return heights


@lru_cache(maxsize=4)
def all_tokens(vocab_size: int) -> NDArray[np.int64]:
    """Every id, in memory that all share and nobody may change."""
    tokens = np.arange(vocab_size, dtype=np.int64)
    tokens.setflags(write=False)
    return tokens


def kept_tokens(log_probs: NDArray[np.float64], top_k: int, top_p: float) -> NDArray[np.int64]:
    """The tokens that top-k, then top-p, leave, in growing order. Ties at the border of top-k all stay."""
    tokens = all_tokens(log_probs.size)
    if 0 < top_k < log_probs.size:
        tokens = tokens[log_probs >= nth_best(log_probs, top_k)]
    if top_p < 1.0:
        tokens = np.sort(tokens[_nucleus(log_probs[tokens], top_p)])
    return tokens


def nth_best(values: NDArray[np.floating[Any]], count: int) -> float:
    """The `count`-th largest, ties counted each.

    So many columns hold something at least as large as the `count`-th of the columns' best, and few values are: to order those
    takes a tenth of the time that it takes to order a vocabulary.
    """
    rows = values.size // COLUMNS
    if rows and count <= COLUMNS:
        columns = values[: rows * COLUMNS].reshape(rows, COLUMNS).max(axis=0)
        values = values[values >= np.partition(columns, -count)[-count]]
    return float(np.partition(values, -count)[-count])


def _nucleus(log_probs: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """The smallest set of most likely entries whose share reaches `top_p`."""
    order = np.argsort(-log_probs, kind="stable")
    share = np.exp(log_probs[order])
    before = np.cumsum(share) - share
    size = int((before < top_p * share.sum()).sum())
    return order[: max(1, size)]
