"""The choice of a token as a function: Gumbel-max with noise that anybody can recompute.

    s(z) = log p_T(z) + G(z)        the choice is argmax s, ties to the lowest id

G is keyed by (seed, choice index, position, token id), so the target's choice depends on nothing else, and a drafter that
uses the same noise on its own scores tends to agree with it: P[match] >= (1 - TV) / (1 + TV) (Daliri et al., arXiv 2408.07978).
Only ids cross the wire, no residual is ever sampled, and the answer to one question asked twice is the same.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsd_core.decoding.choice.sampling import SamplingParams, all_tokens, kept_tokens, log_probs, nth_best, penalised
from dsd_core.decoding.ids import TokenId

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Scores:
    """Perturbed scores of the tokens left after top-k and top-p: `tokens` ascending, the rest in the same order."""

    tokens: NDArray[np.int64]
    log_probs: NDArray[np.floating[Any]]
    scores: NDArray[np.floating[Any]]

    def best(self, count: int) -> NDArray[np.int64]:
        """Indices of the `count` best, best first, ties to the lowest token id."""
        if count == 1:
            return np.array([int(np.argmax(self.scores))])
        threshold = nth_best(self.scores, count) if count < self.scores.size else -np.inf
        shortlist = np.flatnonzero(self.scores >= threshold)
        return shortlist[np.argsort(-self.scores[shortlist], kind="stable")][:count]

    @property
    def entropy(self) -> float:
        """Of the distribution that is sampled from, in nats."""
        possible = self.log_probs[self.log_probs > -np.inf]
        return max(0.0, float(-(np.exp(possible) * possible).sum()))  # one token alone: a log-probability just above 0


def scores(
    logits: NDArray[np.float32],
    history: NDArray[np.int64],
    params: SamplingParams,
    *,
    position: int,
    choice_index: int = 0,
    normalised: bool = True,
) -> Scores:
    """Perturbed scores for the token at `position`, given logits [vocab] and the ids of all tokens before it.

    `params.seed` must be set unless the temperature is 0, where the scores are the log-probabilities: up to a constant if they
    need not be `normalised`, since whoever only compares them needs no sum over the vocabulary.
    """
    shaped = penalised(logits, history, params.repetition_penalty)
    if params.temperature == 0:
        heights = log_probs(shaped, 0.0) if normalised else shaped
        return Scores(all_tokens(heights.size), heights, heights)
    everything = log_probs(shaped, params.temperature)
    tokens = kept_tokens(everything, params.top_k, params.top_p)
    left = everything[tokens]
    left = left - np.log(np.exp(left).sum())
    assert params.seed is not None, "whoever opens a session draws its seed"
    return Scores(tokens, left, left + gumbel_noise(params.seed, choice_index, position, tokens))


def greedy(logits: NDArray[np.float32]) -> tuple[TokenId, float]:
    """The most likely token and its lead over the next, in nats: `scores` at temperature 0, without the normalisation."""
    choice = int(np.argmax(logits))
    if logits.size == 1:
        return TokenId(choice), float("inf")
    second = max(float(logits[:choice].max(initial=-np.inf)), float(logits[choice + 1 :].max(initial=-np.inf)))
    return TokenId(choice), float(logits[choice]) - second


def gumbel_noise(seed: int, choice_index: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Standard Gumbel noise, a function of its arguments alone (golden vectors: tests/core/test_coupling.py).

    Logarithms are taken in float64 and rounded: float32 logarithms differ between libraries in a third of all values.
    """
    key = _mix(_mix(_mix(seed) + choice_index) + position)
    hashed = tokens.astype(np.uint64)
    hashed *= np.uint64(_GOLDEN)
    hashed += np.uint64(key)
    _mix_in_place(hashed)
    hashed >>= np.uint64(12)
    uniform = hashed.astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-52  # odd multiples of 2^-53: never 0 or 1
    for _ in range(2):
        np.log(uniform, out=uniform)
        np.negative(uniform, out=uniform)
    return uniform.astype(np.float32)


def _mix(value: int) -> int:
    """One step of SplitMix64 (Steele, Lea and Flood, 2014): every input bit moves half of the output bits."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix_in_place(values: NDArray[np.uint64]) -> None:
    """The same step for each of `values`."""
    values += np.uint64(_GOLDEN)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
