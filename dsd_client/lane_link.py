"""A chain of stages, found and opened: frames go in at the first, verdicts come back from the last."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc.aio

from dsd_core.decoding.events import VerdictsArrived
from dsd_core.decoding.frames import Frame
from dsd_core.decoding.routing import chain
from dsd_core.decoding.target import ChoiceRule
from dsd_core.errors import DsdError, NoPeers, NotCovered, PeerLost, ProtocolError, Refused, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.channels import open_channel
from dsd_core.network.status import error_of, unreachable
from dsd_core.network.stubs import stage_stub
from dsd_core.wire import PROTOCOL_VERSION
from dsd_core.wire.codec import SESSION_ID_BYTES, ComputeTime, frame_to_wire, rule_to_wire, verdicts_from_wire
from dsd_core.wire.hidden import DType, dtype_from_wire
from dsd_core.wire.v1 import stage_pb2

IDLE_SECONDS = 1800
CALL_SECONDS = 10.0
DETAIL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A peer that holds a span, as it described itself."""

    address: Address
    channel: grpc.aio.Channel
    description: stage_pb2.DescribeResponse

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

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._channels = {address: open_channel(address) for address in addresses}

    async def chain(self, manifest_hash: str) -> tuple[Stage, ...]:
        """The stages to send to, in order. Raises NoPeers, Refused, NotCovered or TimedOut."""
        if not self._channels:
            raise NoPeers("no peer was named; pass --join HOST:PORT of a running dsd-node, or try `dsd-client demo`")
        answers = await asyncio.gather(*map(self._describe, self._channels), return_exceptions=True)
        stages = [answer for answer in answers if isinstance(answer, Stage)]
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for stage in stages:
            _require_model(stage, manifest_hash)
        route = _route(stages, failures)
        _require_one_dtype(route)
        return route

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def _describe(self, address: Address) -> Stage:
        channel = self._channels[address]
        request = stage_pb2.DescribeRequest(protocol_version=PROTOCOL_VERSION)
        try:
            description = await stage_stub(channel).Describe(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as failure:
            raise unreachable(error_of(failure, f"the peer at {address}")) from None
        _require_sense(description, address)
        return Stage(address, channel, description)


class LaneLink:
    """One session on a chain of stages."""

    def __init__(self, stages: Sequence[Stage], session_id: bytes) -> None:
        """Use `open`."""
        self.route = tuple(str(stage.address) for stage in stages)
        self.bytes_sent = 0
        self.bytes_received = 0
        self.compute = ComputeTime()
        """Of the last frame that was answered."""
        self._stages = stages
        self._session_id = session_id
        self._vocab_size = stages[0].description.vocab_size
        self._frames = stage_stub(stages[0].channel).StreamFrames()
        self._verdicts = stage_stub(stages[-1].channel).StreamVerdicts(
            stage_pb2.StreamVerdictsRequest(session_id=session_id)
        )
        self._greeted = False

    @classmethod
    async def open(cls, stages: Sequence[Stage], rule: ChoiceRule, capacity: int) -> "LaneLink":
        """Reserve `capacity` positions at every stage. Raises what the first stage to refuse said."""
        session_id = secrets.token_bytes(SESSION_ID_BYTES)
        downstreams = [*(str(stage.address) for stage in stages[1:]), ""]
        pairs = zip(stages, downstreams, strict=True)
        opening = [asyncio.create_task(_open(stage, session_id, capacity, downstream, rule)) for stage, downstream in pairs]
        try:
            await asyncio.wait(opening)
            for opened in opening:
                opened.result()
        except BaseException:
            await _abandon(opening, stages, session_id)
            raise
        return cls(stages, session_id)

    async def send(self, frame: Frame) -> None:
        """Raises what ended the lane."""
        request = stage_pb2.StreamFramesRequest(frame=frame_to_wire(frame, ComputeTime()))
        if not self._greeted:
            request.session_id = self._session_id
            self._greeted = True
        self.bytes_sent += request.ByteSize()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._frames.write(request)
        except TimeoutError:
            raise TimedOut(f"the stage at {self.route[0]} has stopped reading; it may be frozen") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self._reason() from None

    async def verdicts(self) -> AsyncIterator[VerdictsArrived]:
        """As they come, until it raises what ended the lane."""
        try:
            async for message in self._verdicts:
                self.bytes_received += message.ByteSize()
                self.compute = ComputeTime(message.compute_micros / 1e6, message.slowest_micros / 1e6)
                yield VerdictsArrived(verdicts_from_wire(message, vocab_size=self._vocab_size))
        except grpc.aio.AioRpcError as failure:
            raise await self._reason(error_of(failure, f"the stage at {self.route[-1]}")) from None
        raise await self._reason()

    async def close(self) -> None:
        """Give the memory of every stage back; a stage that cannot be reached notices the end of its stream."""
        await _close(self._stages, self._session_id)
        self._frames.cancel()
        self._verdicts.cancel()

    async def _reason(self, otherwise: DsdError | None = None) -> DsdError:
        """Why the lane ended. The stream of frames names the hop that failed, so it is heard first."""
        if self._frames.cancelled():
            return otherwise or PeerLost(f"the lane by {self.route[0]} was given up in the middle of a frame")
        try:
            async with asyncio.timeout(DETAIL_SECONDS):
                await self._frames
        except grpc.aio.AioRpcError as failure:
            if failure.code() is not grpc.StatusCode.CANCELLED:
                return error_of(failure, f"the stage at {self.route[0]}")
        except TimeoutError:
            pass
        return otherwise or PeerLost(f"the stage at {self.route[0]} ended the session")


async def _open(stage: Stage, session_id: bytes, capacity: int, downstream: str, rule: ChoiceRule) -> None:
    request = stage_pb2.OpenSessionRequest(
        session_id=session_id,
        capacity=capacity,
        downstream=downstream,
        sampling=None if downstream else rule_to_wire(rule),
        idle_seconds=IDLE_SECONDS,
    )
    try:
        await stage_stub(stage.channel).OpenSession(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as failure:
        raise unreachable(error_of(failure, f"the stage at {stage.address}")) from None


async def _close(stages: Sequence[Stage], session_id: bytes) -> None:
    async def close(stage: Stage) -> None:
        try:
            request = stage_pb2.CloseSessionRequest(session_id=session_id)
            await stage_stub(stage.channel).CloseSession(request, timeout=DETAIL_SECONDS)
        except grpc.aio.AioRpcError:
            pass  # It is gone, and the session with it; or it will see that the stream has ended.

    await asyncio.gather(*map(close, stages))


async def _abandon(opening: Sequence[asyncio.Task[None]], stages: Sequence[Stage], session_id: bytes) -> None:
    """Close what was opened before one stage refused, or before nobody wanted the session any more."""
    for task in opening:
        task.cancel()
    await asyncio.gather(*opening, return_exceptions=True)
    await _close(stages, session_id)


def _route(stages: Sequence[Stage], failures: Sequence[BaseException]) -> tuple[Stage, ...]:
    """Peers that do not answer are done without, unless they may be what is missing: then the first's error is raised."""
    if not stages:
        raise failures[0]
    try:
        return chain({stage: stage.span for stage in stages}, stages[0].description.num_layers)
    except NotCovered:
        if failures:
            raise failures[0] from None
        raise


def _require_sense(said: stage_pb2.DescribeResponse, address: Address) -> None:
    """Raises ProtocolError for a description that no honest stage gives."""
    dtype_from_wire(said.dtype)
    sizes = (said.hidden_size, said.vocab_size, said.max_positions)
    if not (said.first_layer < said.end_layer <= said.num_layers and all(sizes)):
        raise ProtocolError(f"the peer at {address} describes a stage that cannot be; join another")


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
