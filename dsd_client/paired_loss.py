"""What answers lost in being right, problem by problem, and how much they may have lost for all that chance allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ONE_SIDED_95 = 1.645


@dataclass(frozen=True, slots=True)
class PairedLoss:
    """Of `count` problems, `lost` were right before and are not now; `gained` the other way round."""

    count: int
    lost: int
    gained: int

    @classmethod
    def between(cls, before: Sequence[bool], after: Sequence[bool]) -> "PairedLoss":
        pairs = list(zip(before, after, strict=True))
        lost = sum(was and not is_now for was, is_now in pairs)
        return cls(len(pairs), lost, sum(is_now and not was for was, is_now in pairs))

    @property
    def share(self) -> float:
        """Below zero where more was gained."""
        return (self.lost - self.gained) / self.count

    @property
    def upper_bound(self) -> float:
        """At 95 %: the normal bound on the discordant pairs, and where nothing was lost, not below the rule of three."""
        spread = math.sqrt(max(self.lost + self.gained - (self.lost - self.gained) ** 2 / self.count, 0.0)) / self.count
        return min(max(self.share + ONE_SIDED_95 * spread, 0.0 if self.lost else 3 / self.count), 1.0)
