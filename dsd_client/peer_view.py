"""The peers of a swarm as this client sees them, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dsd_client.stage import Stage
from dsd_core.errors import DsdError, NoPeers, PeerLost, TimedOut
from dsd_core.membership.record import PeerRecord, State
from dsd_core.membership.ways import stage_seconds
from dsd_core.network.address import Address

UNREACHABLE, SUSPECTED, REFUSED = "unreachable", "suspected", "refused"


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer. None is what nobody has said, or measured."""

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
    frame_seconds: float | None = None
    """What a frame takes there."""
    tokens_per_second: float | None = None
    """That it could compute one by one, by its own clock."""
    free_positions: int | None = None
    total_positions: int | None = None
    in_route: bool = False
    """Whether a session would go through it now."""
    problem: str | None = None

    @classmethod
    def of(
        cls,
        address: Address,
        answer: Stage | DsdError,
        record: PeerRecord | None,
        *,
        in_route: bool = False,
        is_suspected: bool = False,
    ) -> "PeerView":
        """By what it has answered, and by its record where there is one. What it says now counts for more than what it said to
        all."""
        stated = {} if record is None else _stated(record)
        if isinstance(answer, Stage):
            state = State.DRAINING if answer.description.draining else record.state if record else State.SERVING
            return cls(str(address), state.value, in_route=in_route, **(stated | _described(answer)))
        return cls(str(address), _absent_state(answer, record, is_suspected), problem=str(answer), **stated)


def _described(stage: Stage) -> dict[str, Any]:
    return {
        "peer_id": stage.peer,
        "model": stage.description.model,
        "layers": (stage.span.start, stage.span.stop),
        "num_layers": stage.description.num_layers,
        "dtype": stage.dtype.value,
        "round_trip_seconds": stage.round_trip,
    }


def _stated(record: PeerRecord) -> dict[str, Any]:
    holding, capacity = record.holding, record.capacity
    seconds = capacity.frame_seconds + capacity.node_seconds
    return {
        "peer_id": record.peer,
        "model": holding.model,
        "layers": (holding.span.start, holding.span.stop),
        "num_layers": holding.num_layers,
        "dtype": holding.dtype,
        "frame_seconds": stage_seconds(record) or None,
        "tokens_per_second": 1 / seconds if seconds else None,
        "free_positions": capacity.free_positions,
        "total_positions": capacity.total_positions,
    }


def _absent_state(failure: DsdError, record: PeerRecord | None, is_suspected: bool) -> str:
    """Of a peer that does not describe itself. One that loads refuses to."""
    if isinstance(failure, PeerLost | NoPeers | TimedOut):
        return SUSPECTED if is_suspected else UNREACHABLE
    return REFUSED if record is None or record.state is State.SERVING else record.state.value


def coverage(peers: Sequence[PeerView]) -> list[int]:
    """How many peers serve each layer of the client's model."""
    serving = [peer for peer in peers if peer.state == State.SERVING.value and peer.layers]
    layers = max((peer.num_layers or 0 for peer in serving), default=0)
    return [sum(layer in range(*peer.layers) for peer in serving if peer.layers) for layer in range(layers)]
