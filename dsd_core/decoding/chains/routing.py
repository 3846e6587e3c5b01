"""Which peers together hold the model, in which order: the chain that a frame is predicted to traverse soonest.

    client -> first stage -> ... -> last stage -> client        half a round trip for each arrow, and each stage's own time

A session enters a stage at its first layer and leaves it after its last, so a chain is a path over layer boundaries.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

from dsd_core.errors import NotCovered

Peer = TypeVar("Peer", bound=Hashable)

UNKNOWN_SECONDS = 0.15
"""The round trip to a peer that was never measured: far, so that measured ones come first, and not out of the world."""
FULL_SECONDS = 10.0
"""What a stage without room costs: any chain that has room is better, and a session may yet end before ours opens."""
CLEAR_GAIN = 0.75
"""A chain is worth a move when its traversal takes less than this share of the time, and ..."""
CLEAR_GAIN_SECONDS = 0.005
"""... when it saves at least so much. Moving a session costs a prefill, and two chains that are nearly equal trade places."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A stage that a session could use."""

    span: range
    seconds: float = 0.0
    """What a frame takes there."""
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class Links(Generic[Peer]):
    """Round trips in seconds: those the client measured, and those that peers state of one another."""

    own: Mapping[Peer, float] = field(default_factory=dict)
    stated: Mapping[tuple[Peer, Peer], float] = field(default_factory=dict)

    def to(self, peer: Peer) -> float:
        """From the client and back."""
        return self.own.get(peer, UNKNOWN_SECONDS)

    def between(self, one: Peer, other: Peer) -> float:
        """The slower of what both ends state, so that a peer does not come nearer by its own word alone.

        Where neither does: the way over the client, which the direct one hardly exceeds.
        """
        stated = [self.stated[ends] for ends in ((one, other), (other, one)) if ends in self.stated]
        return max(stated, default=self.to(one) + self.to(other))


@dataclass(frozen=True, slots=True)
class _Way(Generic[Peer]):
    """The soonest way through some first layers."""

    seconds: float
    peers: tuple[Peer, ...]


def chain(offers: Mapping[Peer, Offer], num_layers: int, links: Links[Peer]) -> tuple[Peer, ...]:
    """The peers whose spans join up to all layers, first layers first, with the least predicted traversal time.

    Among equals, those named first. Raises NotCovered, naming the first layer that cannot be reached.
    """
    ways: defaultdict[int, list[_Way[Peer]]] = defaultdict(list)
    # A chain's spans only go forward, so in order of first layers every way to a stage is complete when it is looked at.
    for peer, offer in sorted(offers.items(), key=lambda item: item[1].span.start):
        if offer.span and (arrival := _arrival(peer, offer.span.start, ways, links)) is not None:
            ways[offer.span.stop].append(_Way(arrival.seconds + _stay(offer), (*arrival.peers, peer)))
    if not ways[num_layers]:
        furthest = max((boundary for boundary, found in ways.items() if found), default=0)
        raise NotCovered(
            f"no peer goes on from layer {furthest} of {num_layers}; start a node with --layers {furthest}:{num_layers}"
        )
    return min(ways[num_layers], key=lambda way: way.seconds + links.to(way.peers[-1]) / 2).peers


def traversal_seconds(peers: Sequence[Peer], offers: Mapping[Peer, Offer], links: Links[Peer]) -> float:
    """What a frame is predicted to take from the client through a chain and back."""
    return sum(_hop_seconds(peers, links)) + sum(_stay(offers[peer]) for peer in peers)


def _hop_seconds(peers: Sequence[Peer], links: Links[Peer]) -> list[float]:
    """What each hop from the client through a chain and back is predicted to take, one way."""
    between = [links.between(one, other) for one, other in pairwise(peers)]
    return [round_trip / 2 for round_trip in (links.to(peers[0]), *between, links.to(peers[-1]))]


def is_clearly_sooner(seconds: float, than: float) -> bool:
    """Whether a chain of `seconds` is worth moving a running session to, from one that now takes `than`."""
    return seconds < CLEAR_GAIN * than and than - seconds >= CLEAR_GAIN_SECONDS


def _arrival(peer: Peer, boundary: int, ways: Mapping[int, list[_Way[Peer]]], links: Links[Peer]) -> _Way[Peer] | None:
    """The soonest way up to a peer's door, or None if no chain leads there."""
    if boundary == 0:
        return _Way(links.to(peer) / 2, ())
    arrivals = [_Way(way.seconds + links.between(way.peers[-1], peer) / 2, way.peers) for way in ways.get(boundary, ())]
    return min(arrivals, key=lambda way: way.seconds, default=None)


def _stay(offer: Offer) -> float:
    return offer.seconds + (FULL_SECONDS if offer.is_full else 0.0)
