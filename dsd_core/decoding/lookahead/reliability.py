"""How far a drafter's confidence is to be believed."""

from bisect import bisect
from collections import defaultdict
from dataclasses import dataclass, field

_EDGES = (0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97)
_PRIOR = 2.0
"""Right candidates that the drafter is taken to have predicted, and had, before anything is judged."""
_KEEP = 1 - 1 / 256
_SUREST = 0.995


@dataclass(slots=True)
class _Record:
    expected: float = _PRIOR
    right: float = _PRIOR

    def add(self, confidence: float, *, right: bool) -> None:
        self.expected = _PRIOR + _KEEP * (self.expected - _PRIOR) + confidence
        self.right = _PRIOR + _KEEP * (self.right - _PRIOR) + right


@dataclass(slots=True)
class Reliability:
    """A record for each rank and band of confidence: how many candidates should have been right, and how many were.

    The ratio corrects the drafter and keeps what it tells apart within a band. A drafter that never says how sure it is ends
    up with its histogram of ranks.
    """

    _records: dict[tuple[int, int], _Record] = field(default_factory=lambda: defaultdict(_Record))

    def belief(self, rank: int, confidence: float) -> float:
        """The chance that the target chooses this candidate, given that it chose the tokens before. Between 0 and 1."""
        record = self._records.get(_band(rank, confidence))
        ratio = record.right / record.expected if record is not None else 1.0
        return min(confidence * ratio, _SUREST)

    def of_first_candidates(self) -> float:
        """What came true of them, as a share of what the drafter promised; 1 at most."""
        records = [record for (rank, _), record in self._records.items() if rank == 0]
        right = _PRIOR + sum(record.right - _PRIOR for record in records)
        expected = _PRIOR + sum(record.expected - _PRIOR for record in records)
        return min(right / expected, 1.0)

    def judge(self, rank: int, confidence: float, *, right: bool) -> None:
        """Take note of a candidate that the target has decided on."""
        self._records[_band(rank, confidence)].add(confidence, right=right)


def _band(rank: int, confidence: float) -> tuple[int, int]:
    return rank, bisect(_EDGES, confidence)
