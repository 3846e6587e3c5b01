"""The lanes of a session: replicas, stand-ins and their changing of places, all one mechanism.

    LaneOpened --> cold --(has answered, keeps up)--> warm --LaneLost, CloseLane--> gone
                     \\                                /
                      draining, or overdue: served or heard until another lane is warm

The lanes are ranked, and the first `serving` of those that are warm serve; the others stand by. So when one is lost the next
in rank serves at once, and whoever opens a lane need not know what for.
"""

from collections.abc import Sequence

from dsd_core.decoding.events import Action, CloseLane, OpenLane
from dsd_core.decoding.ids import LaneId, NodeId
from dsd_core.decoding.lane import Lane
from dsd_core.decoding.round_clock import RoundClock
from dsd_core.decoding.tree import TokenTree


class Lanes:
    """All open lanes of one session. `wanted` is how many it likes to have, `serving` how many of them may serve."""

    def __init__(self, tree: TokenTree, *, serving: int, standby: int, round_seconds: float) -> None:
        self._tree = tree
        self._serving = serving
        self._wanted = serving + standby
        self._round_seconds = round_seconds
        self._lanes: dict[LaneId, Lane] = {}
        self._opening = 0

    @property
    def all(self) -> Sequence[Lane]:
        return list(self._lanes.values())

    @property
    def deadline(self) -> float | None:
        """When the first of them is overdue."""
        return min((lane.clock.deadline for lane in self._owing()), default=None)

    def get(self, lane: LaneId) -> Lane | None:
        return self._lanes.get(lane)

    def opened(self, lane: LaneId) -> None:
        self._lanes[lane] = Lane(lane, RoundClock(self._round_seconds))
        self._opening = max(0, self._opening - 1)

    def lost(self, lane: LaneId) -> None:
        self._lanes.pop(lane, None)

    def ranked(self) -> list[Lane]:
        """Whoever answers comes first, whoever keeps up before whoever does not, the older before the younger."""
        return sorted(self._lanes.values(), key=lambda lane: (lane.overdue, not lane.is_warm(self._tree), lane.draining))

    def serving(self) -> tuple[Lane, ...]:
        """Those that serve, the leading one first. Where none is warm, one serves that will be."""
        able = [lane for lane in self.ranked() if not lane.overdue]
        warm = [lane for lane in able if lane.is_warm(self._tree)]
        return tuple(warm[: self._serving] or able[:1])

    def hungry(self) -> list[Lane]:
        """Those that are to be fed. The leading lane gets what it lacks with its next frame."""
        return [lane for lane in self.ranked()[1:] if not lane.leaves and lane.hungers(self._tree)]

    def have_seen(self, node: NodeId) -> bool:
        """One of them was sent it."""
        return any(lane.has_seen(node) for lane in self._lanes.values())

    def are_asked(self, node: NodeId) -> bool:
        """What follows it will be heard from a lane that serves and stays, or that lane will be found overdue."""
        return any(lane.has_seen(node) for lane in self.serving() if not lane.leaves)

    def mark_overdue(self, now: float) -> list[Action]:
        """A lane that is overdue may only be slow: it is heard until another is warm, or overdue as well."""
        late = [lane for lane in self._owing() if now >= lane.clock.deadline]
        closing = [lane for lane in self._lanes.values() if lane.overdue] if late else []
        for lane in late:
            lane.overdue = True
        return self._close(closing)

    def changes(self) -> list[Action]:
        """Which lanes to close, and how many to open."""
        staying = [lane for lane in self.ranked() if not lane.leaves]
        closing = staying[self._wanted :]
        if any(lane.is_warm(self._tree) for lane in staying):
            closing += [lane for lane in self._lanes.values() if lane.leaves]
        there = len(staying) + self._opening
        places = range(there, max(there, self._wanted))
        self._opening += len(places)
        # Where none stays, the first takes what there is, be it of those that leave.
        opening = [OpenLane(replica=place < self._serving and (place > there or bool(staying))) for place in places]
        return [*self._close(closing), *opening]

    def _close(self, lanes: Sequence[Lane]) -> list[Action]:
        for lane in lanes:
            del self._lanes[lane.id]
        return [CloseLane(lane.id) for lane in lanes]

    def _owing(self) -> list[Lane]:
        return [lane for lane in self._lanes.values() if not lane.overdue and lane.owes(self._tree)]
