"""A straight line through recent measurements."""

from dataclasses import dataclass


@dataclass(slots=True)
class LineFit:
    """Least squares of y on x that forgets: what is `memory` points old counts about a third of what is new.

    With a single x so far the line is flat. Used for latencies that grow with the nodes of a frame.
    """

    memory: float = 32.0
    weight: float = 0.0
    mean_x: float = 0.0
    mean_y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def add(self, x: float, y: float) -> None:
        keep = 1.0 - 1.0 / self.memory
        self.weight = keep * self.weight + 1.0
        share = 1.0 / self.weight
        dx, dy = x - self.mean_x, y - self.mean_y
        self.mean_x += share * dx
        self.mean_y += share * dy
        self._xx = keep * self._xx + dx * (x - self.mean_x)
        self._xy = keep * self._xy + dx * (y - self.mean_y)

    @property
    def slope(self) -> float:
        """At least 0: more work never takes less time."""
        return max(0.0, self._xy / self._xx) if self._xx > 1e-12 else 0.0

    def at(self, x: float) -> float:
        """The fitted y, 0 before the first point."""
        return max(0.0, self.mean_y + self.slope * (x - self.mean_x))
