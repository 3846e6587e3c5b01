"""Who holds a model, as its peers say and as they answer us: what `dsd-client status` shows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dsd_client.swarm import Stage, Swarm, chain_of
from dsd_core.errors import DsdError, NoPeers, PeerLost, TimedOut
from dsd_core.membership.record import PeerRecord, State
from dsd_core.membership.ways import stage_seconds
from dsd_core.network.address import Address


@dataclass(frozen=True, slots=True)
class SeenPeer:
    """One peer of a model. What nobody has said, or measured, is None."""

    address: str
    state: str
    """joining, serving or draining; silent, where it does not answer; suspected, where it answers others neither; refused."""
    peer_id: str | None = None
    layers: tuple[int, int] | None = None
    """From the first up to, not including, the second."""
    dtype: str | None = None
    round_trip_seconds: float | None = None
    frame_seconds: float | None = None
    """What a frame takes there."""
    free_positions: int | None = None
    total_positions: int | None = None
    in_route: bool = False
    """Whether a session would go through it now."""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """`problem` says why no session can open now; None: the model is covered."""

    model: str
    num_layers: int
    peers: Sequence[SeenPeer]
    problem: DsdError | None

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "num_layers": self.num_layers,
            "covered": self.problem is None,
            "problem": str(self.problem) if self.problem else None,
            "peers": [asdict(peer) for peer in self.peers],
        }


async def survey(swarm: Swarm, model: str, manifest_hash: str, num_layers: int) -> Survey:
    """Ask around, and then each peer of the model. Raises NoPeers if none was named and none is remembered."""
    records, answers = await swarm.look_at_all(manifest_hash)
    route, problem = _route([answer for answer in answers.values() if isinstance(answer, Stage)], answers)
    seen = [
        _seen(address, answer, records.get(address), route, is_suspected=swarm.is_suspected(address))
        for address, answer in answers.items()
    ]
    seen.sort(key=lambda peer: (peer.layers or (num_layers, num_layers), peer.address))
    return Survey(model, num_layers, seen, problem)


def _route(
    stages: Sequence[Stage], answers: Mapping[Address, Stage | DsdError]
) -> tuple[frozenset[Address], DsdError | None]:
    try:
        return frozenset(stage.address for stage in chain_of(stages)), None
    except NoPeers as error:
        return frozenset(), next((answer for answer in answers.values() if isinstance(answer, DsdError)), error)
    except DsdError as error:
        return frozenset(), error


def _seen(
    address: Address,
    answer: Stage | DsdError,
    record: PeerRecord | None,
    route: frozenset[Address],
    *,
    is_suspected: bool,
) -> SeenPeer:
    stated = {} if record is None else _stated(record)
    if isinstance(answer, Stage):
        described = {
            "peer_id": answer.peer,
            "layers": (answer.span.start, answer.span.stop),
            "dtype": answer.dtype.value,
            "round_trip_seconds": answer.round_trip,
        }
        state = State.DRAINING if answer.description.draining else State.SERVING
        return SeenPeer(str(address), state.value, in_route=address in route, **{**stated, **described})
    return SeenPeer(str(address), _state(answer, record, is_suspected), problem=str(answer), **stated)


def _state(failure: DsdError, record: PeerRecord | None, is_suspected: bool) -> str:
    """Of a peer that does not describe itself. One that loads refuses to."""
    if isinstance(failure, PeerLost | NoPeers | TimedOut):
        return "suspected" if is_suspected else "silent"
    return "refused" if record is None or record.state is State.SERVING else record.state.value


def _stated(record: PeerRecord) -> dict[str, Any]:
    return {
        "peer_id": record.peer,
        "layers": (record.holding.span.start, record.holding.span.stop),
        "dtype": record.holding.dtype,
        "frame_seconds": stage_seconds(record) or None,
        "free_positions": record.capacity.free_positions,
        "total_positions": record.capacity.total_positions,
    }
