"""A straight line through recent measurements."""

import math
from dataclasses import dataclass

_LOOSENING = 1 + 1 / 256
"""Of a bound, with each look: machines change, and slower than points are forgotten."""


@dataclass(slots=True)
class LineFit:
    """Least squares of y on x that forgets: what is `memory` points old counts about a third of what is new.

    With a single x so far the line is flat. Used for latencies that grow with the nodes of a frame.
    """

    memory: float = 32.0
    scatter: float = 0.0
    """Squared deviations of x, summed, below which the slope is not forgotten: where x hardly differ nothing is learnt."""
    steepest: float = math.inf
    """The slope is at most this."""
    weight: float = 0.0
    slope: float = 0.0
    """At least 0: more work never takes less time."""
    mean_x: float = 0.0
    mean_y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def assume(self, x: float, y: float, growth: float) -> None:
        """Before the first point: the line through (x, y) that grows by the share `growth` of its value at 1 for each x.

        The first point takes its place; its slope, with the weight of `scatter`, yields to points as their x differ.
        """
        self.mean_x, self.mean_y = x, y
        self._xx = self.scatter
        self._xy = self.scatter * y * growth / (1 + growth * (x - 1))
        self._incline()

    def bound(self, x: float, y: float) -> None:
        """Each x adds no more than its share of y, however steep the points make the line look. That fades too."""
        if y > 0:
            self.steepest = min(_LOOSENING * self.steepest, y / x)
            self._incline()

    def add(self, x: float, y: float) -> None:
        keep = 1.0 - 1.0 / self.memory
        self.weight = keep * self.weight + 1.0
        share = 1.0 / self.weight
        dx, dy = x - self.mean_x, y - self.mean_y
        self.mean_x += share * dx
        self.mean_y += share * dy
        if self._xx <= self.scatter:
            keep = 1.0
        self._xx = keep * self._xx + dx * (x - self.mean_x)
        self._xy = keep * self._xy + dx * (y - self.mean_y)
        self._incline()

    def _incline(self) -> None:
        self.slope = min(max(0.0, self._xy / self._xx), self.steepest) if self._xx > 1e-12 else 0.0

    def at(self, x: float) -> float:
        """The fitted y, 0 before the first point."""
        return max(0.0, self.mean_y + self.slope * (x - self.mean_x))
