"""A peer that holds a span of the model, and what it must not say."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from dsd_core.decoding.chains.routing import Offer
from dsd_core.errors import ProtocolError, Refused
from dsd_core.membership.record import PeerRecord
from dsd_core.membership.ways import has_room, stage_seconds
from dsd_core.model.shape import ModelShape
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId
from dsd_core.wire import VERSIONS
from dsd_core.wire.hidden import DType, dtype_from_wire
from dsd_core.wire.v1 import stage_pb2
from dsd_core.wire.versions import versions_from_wire

NEAR_SECONDS = 0.010
"""Less than links between machines of two homes take."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A peer that holds a span, as it described itself."""

    address: Address
    peer: PeerId
    channel: grpc.aio.Channel
    description: stage_pb2.DescribeResponse
    round_trip: float
    """Seconds that its answer takes, of late."""
    record: PeerRecord | None = None
    """What it says of itself to the swarm, where we were told."""

    @property
    def span(self) -> range:
        return range(self.description.first_layer, self.description.end_layer)

    @property
    def model(self) -> ModelShape:
        return _model(self.description)

    @property
    def dtype(self) -> DType:
        return dtype_from_wire(self.description.dtype)

    @property
    def offer(self) -> Offer:
        if self.record is None:
            return Offer(self.span)
        return Offer(self.span, seconds=stage_seconds(self.record), is_full=not has_room(self.record))

    def __hash__(self) -> int:
        return hash(self.address)


def are_near(stages: Sequence[Stage]) -> bool:
    """They all answer so soon that they may compute on this very machine, and share it with the drafter."""
    return max(stage.round_trip for stage in stages) < NEAR_SECONDS


def are_here(stages: Sequence[Stage]) -> bool:
    """They all compute on this machine, however long links that are emulated take."""
    return all(stage.address.is_loopback for stage in stages)


def require_sense(said: stage_pb2.DescribeResponse, address: Address) -> None:
    """Raises ProtocolError for a description that no honest stage gives, Refused for one in another protocol."""
    theirs = versions_from_wire(said.protocol_version, said.oldest_protocol_version)
    VERSIONS.agree(theirs, peer=f"the peer at {address}")
    dtype_from_wire(said.dtype)
    has_layers = said.first_layer < said.end_layer <= said.num_layers
    if not (has_layers and said.hidden_size and said.vocab_size and said.max_positions):
        raise ProtocolError(f"the peer at {address} describes a stage that cannot be; join another")


def require_model(said: stage_pb2.DescribeResponse, address: Address, model: ModelShape) -> None:
    """Raises Refused for a stage of another model, ProtocolError for one that gives ours another shape than our files do."""
    if said.manifest_hash.hex() != model.manifest_hash:
        raise Refused(
            f"the peer at {address} serves another model, {said.model!r}; "
            "name that one with --model, or join peers that serve yours"
        )
    if _model(said) != model:
        raise ProtocolError(f"the peer at {address} describes the model otherwise than its files do; join another")


def _model(said: stage_pb2.DescribeResponse) -> ModelShape:
    return ModelShape(said.manifest_hash.hex(), said.num_layers, said.hidden_size, said.vocab_size, said.max_positions)
