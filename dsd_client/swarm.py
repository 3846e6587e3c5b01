"""The peers that were named, and which of them serve the model."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc.aio

from dsd_core.decoding.round_trips import RoundTrips
from dsd_core.decoding.routing import Links, Offer, chain
from dsd_core.errors import NoPeers, NotCovered, ProtocolError, Refused
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId
from dsd_core.network.join_token import JoinToken
from dsd_core.network.status import error_of, unreachable
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Transport
from dsd_core.wire import VERSIONS
from dsd_core.wire.hidden import DType, dtype_from_wire
from dsd_core.wire.v1 import stage_pb2
from dsd_core.wire.versions import versions_from_wire

log = logging.getLogger(__name__)

CALL_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A peer that holds a span, as it described itself."""

    address: Address
    peer: PeerId
    channel: grpc.aio.Channel
    description: stage_pb2.DescribeResponse
    round_trip: float
    """Seconds that its answer takes, of late."""

    @property
    def span(self) -> range:
        return range(self.description.first_layer, self.description.end_layer)

    @property
    def dtype(self) -> DType:
        return dtype_from_wire(self.description.dtype)

    def __hash__(self) -> int:
        return hash(self.address)


class Swarm:
    """The peers that were named, and a channel to each. Close it."""

    def __init__(self, seeds: Mapping[Address, PeerId | None], transport: Transport) -> None:
        self._transport = transport
        self._seeds = seeds
        self._channels: dict[Address, tuple[PeerId, grpc.aio.Channel]] = {}
        self._round_trips = RoundTrips[Address]()

    async def chain(self, manifest_hash: str) -> tuple[Stage, ...]:
        """The stages to send to, in order. Raises NoPeers, Refused, NotCovered or TimedOut."""
        if not self._seeds:
            raise NoPeers("no peer was named; pass --join HOST:PORT of a running dsd-node, or try `dsd-client demo`")
        answers = await asyncio.gather(*map(self._describe, self._seeds), return_exceptions=True)
        stages = [answer for answer in answers if isinstance(answer, Stage)]
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for stage in stages:
            _require_model(stage, manifest_hash)
        route = _route(stages, failures)
        _require_one_dtype(route)
        return route

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for _, channel in self._channels.values()))

    async def _describe(self, address: Address) -> Stage:
        peer, channel = await self._channel(address)
        request = stage_pb2.DescribeRequest(protocol_version=VERSIONS.newest, oldest_protocol_version=VERSIONS.oldest)
        asked_at = asyncio.get_running_loop().time()
        try:
            description = await stage_stub(channel).Describe(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as failure:
            raise unreachable(error_of(failure, f"the peer at {address}")) from None
        self._round_trips.add(address, asyncio.get_running_loop().time() - asked_at)
        _require_sense(description, address)
        return Stage(address, peer, channel, description, self._round_trips.seconds()[address])

    async def _channel(self, address: Address) -> tuple[PeerId, grpc.aio.Channel]:
        """To the peer that was named, or else to whoever was met at the address first."""
        if address not in self._channels:
            peer = self._seeds[address] or await self._meet(address)
            self._channels[address] = peer, self._transport.channel(address, peer)
        return self._channels[address]

    async def _meet(self, address: Address) -> PeerId:
        peer, is_new = await self._transport.meet(address)
        if is_new:
            log.info("met %s at %s for the first time; from now on nobody else is believed there", peer, address)
        return peer


def seeds(join: Sequence[str]) -> dict[Address, PeerId | None]:
    """The peers behind `--join`: HOST:PORT, or a join token, which says who answers there. Raises UsageError for neither."""
    return dict(seed for text in join for seed in _seeds(text))


def _seeds(text: str) -> Sequence[tuple[Address, PeerId | None]]:
    return JoinToken.decode(text).seeds if JoinToken.looks_like_one(text) else ((Address.parse(text), None),)


def _require_sense(said: stage_pb2.DescribeResponse, address: Address) -> None:
    """Raises ProtocolError for a description that no honest stage gives, Refused for one in another protocol."""
    theirs = versions_from_wire(said.protocol_version, said.oldest_protocol_version)
    VERSIONS.agree(theirs, peer=f"the peer at {address}")
    dtype_from_wire(said.dtype)
    has_layers = said.first_layer < said.end_layer <= said.num_layers
    if not (has_layers and said.hidden_size and said.vocab_size and said.max_positions):
        raise ProtocolError(f"the peer at {address} describes a stage that cannot be; join another")


def _route(stages: Sequence[Stage], failures: Sequence[BaseException]) -> tuple[Stage, ...]:
    """Peers that do not answer are done without, unless they may be what is missing: then the first's error is raised."""
    if not stages:
        raise failures[0]
    try:
        links = Links({stage: stage.round_trip for stage in stages})
        return chain({stage: Offer(stage.span) for stage in stages}, stages[0].description.num_layers, links)
    except NotCovered:
        if failures:
            raise failures[0] from None
        raise


def _require_model(stage: Stage, manifest_hash: str) -> None:
    if stage.description.manifest_hash.hex() != manifest_hash:
        raise Refused(
            f"the peer at {stage.address} serves another model, {stage.description.model!r}; "
            "name that one with --model, or join peers that serve yours"
        )


def _require_one_dtype(stages: Sequence[Stage]) -> None:
    dtypes = {stage.dtype: stage for stage in stages}
    if len(dtypes) > 1:
        named = ", ".join(f"{stage.address} {dtype.value}" for dtype, stage in dtypes.items())
        raise Refused(f"the stages compute in different types ({named}); start them with one --dtype")
