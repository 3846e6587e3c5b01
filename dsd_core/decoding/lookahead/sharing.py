"""What is lost where work shares a machine or a process, told by how long it takes: frames at stages, or draft steps."""

from bisect import bisect_left, insort
from collections import deque

MEMORY = 256
"""Pieces of work that are remembered ..."""
LATELY = 32
"""... and those of them that tell how it is now."""
ALONE = 1 / 20
"""The share of them that are taken to have met no other."""
SCATTER = 1 / 4
"""Of the time alone. What takes so much longer need not have met another: times differ."""


class Sharing:
    """Told the seconds of each piece of work, all alike in size."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._by_length: list[float] = []
        self.lost = 0.0
        """How many seconds longer a piece takes of late than one that is alone."""

    def add(self, seconds: float) -> None:
        self._remember(max(0.0, seconds))
        lately = sorted(list(self._latest)[-LATELY:])
        alone, usual = self._by_length[int(ALONE * len(self._by_length))], lately[len(lately) // 2]
        self.lost = max(0.0, usual - (1 + SCATTER) * alone)

    def _remember(self, seconds: float) -> None:
        self._latest.append(seconds)
        insort(self._by_length, seconds)
        if len(self._latest) > MEMORY:
            del self._by_length[bisect_left(self._by_length, self._latest.popleft())]
