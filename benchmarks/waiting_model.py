"""A target and a drafter that wait instead of computing, and agree as often as they are told to.

Their text is a function of (seed, path): the target's choice after a path of tokens is a hash of it, and so is the rank that
this choice has among the drafter's candidates. Every schedule therefore meets the same rejections at the same places, and a
stage that mixed up paths, slots or sessions would change the text.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Path = int
"""64 bits that stand for all tokens from the root to a node."""

_MASK: Final = 2**64 - 1
_FIRST_TOKEN: Final = 16
"""Those below are special ones of the tokenizer, the end of the text among them."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a drafter's candidates compare with the target's choice.

    The first is right with chance `rate`; of its misses the 2nd, 3rd and 4th are right in the `shares` given, in none of
    the rest. Positions are independent of each other.
    """

    rate: float
    shares: tuple[float, ...] = (0.46, 0.18, 0.10)
    spread: bool = True
    """The chance differs from position to position, Beta(1.5 rate, 1.5 (1 - rate)), and the drafter has a noisy, calibrated
    idea of it. Otherwise it is the same everywhere, and the drafter knows no more."""
    claimed: float | None = None
    """What the drafter says of its confidence whatever it is: a drafter that is wrong and does not know it."""

    def at(self, path: Path) -> tuple[int | None, float]:
        """After a path: the rank of the target's choice, None beyond the shares, and the belief in the first candidate."""
        noise = np.random.default_rng(path)
        chance, belief = self._chance(noise) if self._is_spread else (self.rate, self.rate)
        belief = belief if self.claimed is None else self.claimed
        if noise.random() < chance:
            return 0, belief
        rank = 1 + int(np.searchsorted(np.cumsum(self.shares), noise.random(), side="right"))
        return (rank if rank <= len(self.shares) else None), belief

    def confidences(self, belief: float) -> list[float]:
        """The belief in each candidate, given that in the first."""
        return [belief, *((1 - belief) * share for share in self.shares)]

    @property
    def _is_spread(self) -> bool:
        return self.spread and 0 < self.rate < 1

    def _chance(self, noise: np.random.Generator) -> tuple[float, float]:
        chance = noise.beta(1.5 * self.rate, 1.5 * (1 - self.rate))
        edges, beliefs = _calibration(self.rate)
        return chance, float(beliefs[np.searchsorted(edges, _seen(np.array(chance), noise))])


def _seen(chances: NDArray[np.float64], noise: np.random.Generator) -> NDArray[np.float64]:
    """What the drafter sees of a chance: its logit, blurred. First candidates are told from wrong ones with AUROC 0.8."""
    clipped = np.clip(chances, 1e-3, 1 - 1e-3)
    return np.asarray(np.log(clipped / (1 - clipped)) + 1.5 * noise.standard_normal(chances.shape))


@cache
def _calibration(rate: float, bins: int = 60) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a seen logit is worth: the mean chance behind those in its bin."""
    noise = np.random.default_rng(99)
    chances = noise.beta(1.5 * rate, 1.5 * (1 - rate), 100_000)
    seen = _seen(chances, noise)
    order = np.array_split(np.argsort(seen), bins)
    edges = np.array([seen[members[0]] for members in order[1:]])
    return edges, np.clip([chances[members].mean() for members in order], 0.01, 0.995)


@dataclass(frozen=True, slots=True)
class WaitingModel:
    """The text that target and drafter know."""

    seed: int
    vocab_size: int

    def extend(self, path: Path, token: int) -> Path:
        """The path one token longer."""
        return _mix(path ^ _mix(token + 1))

    def paths(self, tokens: Sequence[int]) -> list[Path]:
        """That to each of `tokens`, one after the other from the root."""
        path, paths = self.root, []
        for token in tokens:
            path = self.extend(path, token)
            paths.append(path)
        return paths

    @property
    def root(self) -> Path:
        return _mix(self.seed)

    def choice(self, path: Path) -> int:
        """The target's token after a path."""
        return _FIRST_TOKEN + _mix(path ^ _mask("choice")) % (self.vocab_size - _FIRST_TOKEN)

    def candidates(self, path: Path, agreement: Agreement, count: int) -> list[tuple[int, float]]:
        """The drafter's tokens after a path, best first, and its belief in each. Without the right one where it is missed."""
        rank, belief = agreement.at(path)
        right = self.choice(path) - _FIRST_TOKEN
        usable = self.vocab_size - _FIRST_TOKEN
        tokens = [(right + wrong) % usable for wrong in range(1, len(agreement.shares) + 2)]
        if rank is not None:
            tokens[rank] = right
        return [
            (token + _FIRST_TOKEN, confidence)
            for token, confidence in zip(tokens[:count], agreement.confidences(belief), strict=False)
        ]


@dataclass(frozen=True)
class RecordedModel(WaitingModel):
    """Chooses as recorded texts go on, and where none of them leads anything, as any waiting model."""

    further: Mapping[Path, int]
    """The token after each path in a text."""

    @staticmethod
    def write(texts: Iterable[Sequence[int]], file: pathlib.Path) -> None:
        """Tokens, for `read`."""
        file.write_text(json.dumps(list(texts)))

    @classmethod
    def read(cls, file: pathlib.Path, seed: int, vocab_size: int) -> "RecordedModel":
        paths_of, further = WaitingModel(seed, vocab_size).paths, dict[Path, int]()
        for tokens in json.loads(file.read_text()):
            further.update(zip(paths_of(tokens), tokens[1:], strict=False))
        return cls(seed, vocab_size, further)

    def choice(self, path: Path) -> int:
        known = self.further.get(path)
        return super().choice(path) if known is None else known


@cache
def _mask(purpose: str) -> int:
    return _mix(int.from_bytes(purpose.encode(), "little"))


def _mix(value: int) -> int:
    """One step of splitmix64: neighbouring values come out unrelated."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
