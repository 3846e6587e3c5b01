"""What a peer says about itself, under its signature."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from dsd_core.membership.ids import Handle, PeerId, handle_of
from dsd_core.network.address import Address


class Role(Enum):
    """What a peer's model is for."""

    TARGET = "target"
    DRAFTER = "drafter"


class State(Enum):
    """Whether a peer takes sessions."""

    JOINING = "joining"
    """Not yet: it is loading. It will hold what it says, so that others need not."""
    SERVING = "serving"
    DRAINING = "draining"
    """Not any more."""


@dataclass(frozen=True, slots=True)
class Holding:
    """The part of a model that a peer holds."""

    model: str
    """What its owner calls it; the manifest hash is what counts."""
    manifest_hash: str
    """Hex SHA-256 over configuration and tensors."""
    dtype: str
    """By torch's name, as in "float32"."""
    span: range
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    """The longest session that the model's positions allow."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a peer can take, and how fast it is. A frame of n nodes takes frame_seconds + n * node_seconds."""

    free_positions: int
    total_positions: int
    frame_seconds: float = 0.0
    """0, as the next one, as long as nothing was measured."""
    node_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """One statement of a peer about itself. Of two the one of the higher sequence holds."""

    peer: PeerId
    swarm: bytes
    """Which swarm it belongs to; b"" is the public one."""
    sequence: int
    ttl_seconds: int
    """How long it holds, by the clock of whoever has it, from when it came."""
    protocol_versions: tuple[int, ...]
    addresses: tuple[Address, ...]
    """The best first."""
    role: Role
    state: State
    holding: Holding
    capacity: Capacity
    round_trips: Mapping[Handle, float] = field(default_factory=dict)
    """In seconds, to the peers that it has measured."""

    @property
    def handle(self) -> Handle:
        return handle_of(self.peer)

    def round_trip_to(self, peer: PeerId) -> float | None:
        """Seconds, if this peer has measured it."""
        return self.round_trips.get(handle_of(peer))


@dataclass(frozen=True, slots=True)
class SignedRecord:
    """A record in the bytes that its peer signed, which are what is passed on."""

    record: PeerRecord
    content: bytes = field(repr=False)
    signature: bytes = field(repr=False)
