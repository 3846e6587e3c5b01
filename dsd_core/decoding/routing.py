"""Which peers together hold the model, in which order."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

from dsd_core.errors import NotCovered

Peer = TypeVar("Peer", bound=Hashable)


def chain(spans: Mapping[Peer, range], num_layers: int) -> tuple[Peer, ...]:
    """The fewest peers whose spans join up to all layers, first layers first; among equals, those named first.

    Raises NotCovered, naming the first layer that cannot be reached.
    """
    # Breadth first over layer boundaries: a boundary's chain is the first, so a shortest, one that reaches it.
    chains: dict[int, tuple[Peer, ...]] = {0: ()}
    frontier = [0]
    while frontier and num_layers not in chains:
        reached = []
        for boundary in frontier:
            for peer, span in spans.items():
                if span.start == boundary and span.stop not in chains:
                    chains[span.stop] = (*chains[boundary], peer)
                    reached.append(span.stop)
        frontier = reached
    if num_layers not in chains:
        furthest = max(chains)
        raise NotCovered(
            f"no peer goes on from layer {furthest} of {num_layers}; start a node with --layers {furthest}:{num_layers}"
        )
    return chains[num_layers]
