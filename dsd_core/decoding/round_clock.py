"""How long a lane's rounds take, and when one has taken too long."""

from dataclasses import dataclass, field

from dsd_core.decoding.ids import NodeId

SHORTEST_PATIENCE_SECONDS = 2.0
"""A pause of the network or of a machine's scheduler is no reason to leave a lane."""
PATIENT_ROUNDS = 8
"""A round may take as long as so many others."""
SMOOTHING = 1 / 8
"""Weight of the latest round trip, as in TCP (RFC 6298)."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What one frame took."""

    nodes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Flight:
    nodes: int
    sent_at: float
    is_round: bool


@dataclass(slots=True)
class RoundClock:
    """Of one lane. `longest` bounds the patience with a round in seconds, and is the patience while nothing is known."""

    longest: float
    deadline: float = 0.0
    """When what is awaited of the lane is overdue; of no meaning while nothing is."""
    _patience: float = 0.0
    _smoothed: float | None = None
    _flights: dict[NodeId, _Flight] = field(default_factory=dict)
    """Frames under way that take no longer than a round may, by the last of their nodes."""

    def sent(self, node: NodeId, nodes: int, now: float, *, is_round: bool = True) -> None:
        """A frame of which `node` is the last. Not a round is what only keeps a lane warm: its time bounds that of one."""
        self._flights[node] = _Flight(nodes, now, is_round)

    def wait(self, now: float, *, frames_to_catch_up: int = 0) -> None:
        """From now on an answer is awaited. A prompt of many frames may take as many of the longest rounds."""
        self._patience = self.longest * frames_to_catch_up or self._usual_patience()
        self.deadline = now + self._patience

    def heard(self, now: float) -> None:
        """A sign of life."""
        self.deadline = now + self._patience

    def measure(self, node: NodeId, now: float) -> RoundTrip | None:
        """What the round took whose frame ended with `node`; None if there was none."""
        flight = self._flights.pop(node, None)
        if flight is None:
            return None
        seconds = now - flight.sent_at
        self._smoothed = seconds if self._smoothed is None else self._smoothed + SMOOTHING * (seconds - self._smoothed)
        return RoundTrip(flight.nodes, seconds) if flight.is_round else None

    def forget_flights(self) -> None:
        self._flights.clear()

    def _usual_patience(self) -> float:
        if self._smoothed is None:
            return self.longest
        return min(self.longest, max(SHORTEST_PATIENCE_SECONDS, PATIENT_ROUNDS * self._smoothed))
