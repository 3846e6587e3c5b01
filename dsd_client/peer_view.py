"""The peers of a swarm as this client sees them, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass

from dsd_core.errors import DsdError, Refused
from dsd_core.membership.record import PeerRecord, State
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId
from dsd_core.wire.hidden import dtype_from_wire
from dsd_core.wire.v1 import stage_pb2

UNREACHABLE, SUSPECTED, REFUSED = "unreachable", "suspected", "refused"


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer. None is what the client does not know."""

    address: str
    state: str
    """"serving", "joining" or "draining", as it says itself; "unreachable" where it does not answer us, "suspected" where it
    answers others neither; "refused" where we cannot use it."""
    peer_id: str | None = None
    model: str | None = None
    """What its owner calls it."""
    layers: tuple[int, int] | None = None
    """[first, end)."""
    num_layers: int | None = None
    """Of the whole model."""
    dtype: str | None = None
    round_trip_seconds: float | None = None
    tokens_per_second: float | None = None
    """That it could compute one by one, by its own clock."""
    free_positions: int | None = None
    total_positions: int | None = None
    problem: str | None = None

    @classmethod
    def of(
        cls,
        address: Address,
        peer: PeerId,
        said: stage_pb2.DescribeResponse,
        round_trip: float,
        record: PeerRecord | None,
    ) -> "PeerView":
        """A peer that described itself just now."""
        capacity = record.capacity if record else None
        seconds = capacity.frame_seconds + capacity.node_seconds if capacity else 0.0
        return cls(
            address=str(address),
            state=_stated(said, record).value,
            peer_id=peer,
            model=said.model,
            layers=(said.first_layer, said.end_layer),
            num_layers=said.num_layers,
            dtype=dtype_from_wire(said.dtype).value,
            round_trip_seconds=round_trip,
            tokens_per_second=1 / seconds if seconds else None,
            free_positions=capacity.free_positions if capacity else None,
            total_positions=capacity.total_positions if capacity else None,
        )

    @classmethod
    def absent(
        cls, address: Address, error: DsdError, record: PeerRecord | None, *, is_suspected: bool = False
    ) -> "PeerView":
        """A peer that did not describe itself, or not as one that we can use."""
        state = _absent_state(error, record, is_suspected)
        if record is None:
            return cls(str(address), state, problem=str(error))
        span = record.holding.span
        return cls(
            str(address),
            state,
            peer_id=record.peer,
            model=record.holding.model,
            layers=(span.start, span.stop),
            num_layers=record.holding.num_layers,
            dtype=record.holding.dtype,
            problem=str(error),
        )


def _stated(said: stage_pb2.DescribeResponse, record: PeerRecord | None) -> State:
    """What it says now counts for more than what it said to all."""
    if said.draining:
        return State.DRAINING
    return record.state if record else State.SERVING


def _absent_state(error: DsdError, record: PeerRecord | None, is_suspected: bool) -> str:
    """One that loads refuses to describe itself."""
    if isinstance(error, Refused):
        return REFUSED if record is None or record.state is State.SERVING else record.state.value
    return SUSPECTED if is_suspected else UNREACHABLE


def coverage(peers: Sequence[PeerView]) -> list[int]:
    """How many peers serve each layer of the client's model."""
    serving = [peer for peer in peers if peer.state == State.SERVING.value and peer.layers]
    layers = max((peer.num_layers or 0 for peer in serving), default=0)
    return [sum(layer in range(*peer.layers) for peer in serving if peer.layers) for layer in range(layers)]
