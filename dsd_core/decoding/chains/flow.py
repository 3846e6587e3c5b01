"""How much a swarm can carry, and where it is narrow.

Layer boundaries are the points, and a stage that holds [a, b) is an edge from a to b, as wide as the frames a second that it
carries. All chains together carry the greatest flow from boundary 0 to the last.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NOTHING = 1e-9
"""Rates below are what is left of rounding."""


@dataclass(frozen=True, slots=True)
class Held:
    """A span that somebody holds, or is about to."""

    span: range
    rate: float
    """Frames a second that it carries."""


class Flow:
    """A greatest flow through a swarm, and what could still flow beside it."""

    def __init__(self, num_layers: int, held: Iterable[Held]) -> None:
        self._num_layers = num_layers
        self._spare: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for one in held:
            self._spare[one.span.start][one.span.stop] += one.rate
        self.rate = self._fill(self._spare)

    def gain(self, new: Held) -> float:
        """What the flow grows by if somebody else holds a span."""
        spare = _copy(self._spare)
        spare[new.span.start][new.span.stop] += new.rate
        return self._fill(spare)

    def holes(self, *, backward: bool = False) -> list[int]:
        """To each boundary from the first, or from each to the last: the fewest new layers over which more could flow."""
        spare, start, step = self._spare, 0, 1
        if backward:
            spare, start, step = _reversed(spare), self._num_layers, -1
        holes = {start: 0}
        queue = deque([start])
        while queue:  # breadth first: what is there costs nothing and goes to the front, a new layer costs one
            here = queue.popleft()
            near = {there: 0 for there, rate in spare.get(here, {}).items() if rate > NOTHING}
            for there, cost in ({here + step: 1} | near).items():
                if 0 <= there <= self._num_layers and holes[here] + cost < holes.get(there, self._num_layers + 1):
                    holes[there] = holes[here] + cost
                    (queue.append if cost else queue.appendleft)(there)
        return [holes[boundary] for boundary in range(self._num_layers + 1)]

    def _fill(self, spare: dict[int, dict[int, float]]) -> float:
        """Let flow as much as can, the shortest ways first (Edmonds and Karp); what flowed may be sent another way."""
        total = 0.0
        while way := self._way(spare):
            rate = min(spare[here][there] for here, there in way)
            for here, there in way:
                spare[here][there] -= rate
                spare[there][here] += rate
            total += rate
        return total

    def _way(self, spare: Mapping[int, Mapping[int, float]]) -> list[tuple[int, int]]:
        """The edges of a shortest way over which more can flow; none if there is no such way."""
        came_from = {0: 0}
        queue = deque([0])
        while queue and self._num_layers not in came_from:
            here = queue.popleft()
            for there, rate in spare.get(here, {}).items():
                if rate > NOTHING and there not in came_from:
                    came_from[there] = here
                    queue.append(there)
        way, here = [], self._num_layers
        while here in came_from and here:
            way.append((came_from[here], here))
            here = came_from[here]
        return way


def _copy(spare: Mapping[int, Mapping[int, float]]) -> dict[int, dict[int, float]]:
    copied: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for here, edges in spare.items():
        copied[here].update(edges)
    return copied


def _reversed(spare: Mapping[int, Mapping[int, float]]) -> dict[int, dict[int, float]]:
    turned: dict[int, dict[int, float]] = defaultdict(dict)
    for here, edges in spare.items():
        for there, rate in edges.items():
            turned[there][here] = rate
    return turned
