"""What frames lose to each other where all stages share a machine, told by how long they compute."""

from collections import deque

MEMORY = 256
"""Frames that are remembered ..."""
LATELY = 32
"""... and those of them that tell how it is now."""
ALONE = 1 / 20
"""The share of all frames that are taken to have met no other."""
SCATTER = 1 / 4
"""Of the time alone. What takes so much longer need not have met another: times differ."""


class Sharing:
    """Told each frame's seconds."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=MEMORY)
        self.lost = 0.0
        """How many seconds longer a frame takes of late than one that is alone."""

    def add(self, seconds: float) -> None:
        self._latest.append(max(0.0, seconds))
        everything, lately = sorted(self._latest), sorted(list(self._latest)[-LATELY:])
        alone, usual = everything[int(ALONE * len(everything))], lately[len(lately) // 2]
        self.lost = max(0.0, usual - (1 + SCATTER) * alone)
