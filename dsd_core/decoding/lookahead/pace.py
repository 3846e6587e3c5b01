"""When the slowest stage of a lane will be free, so that a frame arrives as it falls idle and never waits in a queue.

All times are the client's, as if the slowest stage stood beside it: a frame that is sent at t, with none before it, occupies
the stage from t to t + `service`, and its verdicts arrive `rest` later.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from dsd_core.decoding.ids import NodeId

LATENESS = 0.02
"""How late verdicts may be and still be expected, as a share of the frame's time at the stage."""


@dataclass(slots=True)
class Passage:
    """A frame's way through the slowest stage. Durations in seconds."""

    nodes: frozenset[NodeId]
    """Where it takes several frames, as a prompt may, those of the last: its verdicts end the way."""
    sent_at: float
    service: float
    rest: float
    is_usual: bool = True
    """It carries neither a prompt nor what a new lane lacks, so its time says something of others."""
    start: float = 0.0
    is_stale: bool = False

    @property
    def end(self) -> float:
        return self.start + self.service


class Pace:
    """A lane's frames under way, in order of sending. Their verdicts come in that order."""

    def __init__(self) -> None:
        self._passages: deque[Passage] = deque()
        self._free_at = 0.0
        """When the last frame that was answered left the stage."""
        self.sent_at = -inf
        """When the latest frame was sent."""

    @property
    def free_at(self) -> float:
        return self._passages[-1].end if self._passages else self._free_at

    def send(self, passage: Passage) -> None:
        """A frame was sent, now."""
        passage.start = max(passage.sent_at, self.free_at)
        self.sent_at = passage.sent_at
        self._passages.append(passage)

    def answer(self, nodes: Collection[NodeId | None], now: float) -> Passage | None:
        """Verdicts for these nodes came. The frame that held them, which is returned, and those before it have left the
        stage; those behind it move up, or back. None if nothing is known of it any more."""
        if not any(passage.nodes.intersection(nodes) for passage in self._passages):
            return None
        passage = self._passages.popleft()
        while not passage.nodes.intersection(nodes):
            passage = self._passages.popleft()
        self._free_at = free_at = now - passage.rest
        for behind in self._passages:
            behind.start = max(behind.sent_at, free_at)
            free_at = behind.end
        return passage

    def abandon(self, now: float) -> None:
        """No frame under way is of use any more. What has not begun is dropped by the stages before they compute it."""
        while self._passages and self._passages[-1].start > now:
            self._passages.pop()
        for passage in self._passages:
            passage.is_stale = True

    def next_due(self, now: float) -> float | None:
        """When the next verdicts of use will have come, unless they are late; what is late is not expected any more."""
        dues = (passage.end + passage.rest + LATENESS * passage.service for passage in self._passages if not passage.is_stale)
        return min((due for due in dues if due > now), default=None)
