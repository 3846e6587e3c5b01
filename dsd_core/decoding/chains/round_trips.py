"""How far peers are, from the answers that they gave."""

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Peer = TypeVar("Peer", bound=Hashable)

REMEMBERED = 4
"""Few enough that a link which became longer is soon known to be."""


class RoundTrips(Generic[Peer]):
    """Of each peer the least of its last few round trips: the link's own time, without a busy moment at either end."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Peer, deque[float]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def add(self, peer: Peer, seconds: float) -> None:
        self._seconds[peer].append(seconds)

    def forget(self, peer: Peer) -> None:
        self._seconds.pop(peer, None)

    def seconds(self) -> Mapping[Peer, float]:
        return {peer: min(seconds) for peer, seconds in self._seconds.items()}
