"""A chain of stages, found and opened: frames go in at the first, verdicts come back from the last."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn, Self

import grpc.aio

from dsd_client.stage import Stage
from dsd_client.swarm import CALL_SECONDS
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.events import LaneDraining, VerdictsArrived
from dsd_core.decoding.frames import ComputeTime, Frame, Verdict
from dsd_core.decoding.ids import LaneId
from dsd_core.errors import DsdError, OutOfCapacity, PeerLost, ProtocolError, TimedOut
from dsd_core.network.channels import break_noticed
from dsd_core.network.identity import public_bytes_of
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.wire.codec import SESSION_ID_BYTES, frame_to_wire, rule_to_wire, time_from_wire, verdicts_from_wire
from dsd_core.wire.v1 import stage_pb2

IDLE_SECONDS = 1800
DETAIL_SECONDS = 0.5
CLOSE_SECONDS = 1.0
OUTBOX_FRAMES = 4096
"""Beside those of a prompt. A stage that leaves more unread has stopped reading."""


Frames = grpc.aio.StreamUnaryCall[stage_pb2.StreamFramesRequest, stage_pb2.StreamFramesResponse]
Verdicts = grpc.aio.UnaryStreamCall[stage_pb2.StreamVerdictsRequest, stage_pb2.StreamVerdictsResponse]
LaneEvent = VerdictsArrived | LaneDraining


class LaneLink:
    """One session on a chain of stages. What is sent leaves, in order, while `serve` runs."""

    def __init__(self, lane: LaneId, stages: Sequence[Stage], rule: ChoiceRule, capacity: int) -> None:
        """Ask every stage for `capacity` positions. Frames may follow at once: a stage keeps them until it has been asked."""
        self.lane = lane
        self.stages = stages
        self.capacity = capacity
        self.addresses = tuple(stage.address for stage in stages)
        self.route = tuple(map(str, self.addresses))
        self.bytes_sent = 0
        self.bytes_received = 0
        self.refuted = ""
        """What its last stage has claimed though it cannot be."""
        self.begun = asyncio.Event()
        """Its first frame is out, or never will be."""
        self.answered = asyncio.Event()
        """Its first verdict is here, or never will be."""
        self._session_id = secrets.token_bytes(SESSION_ID_BYTES)
        self._vocab_size = stages[0].description.vocab_size
        requests = [_request(stages, index, self._session_id, rule, capacity) for index in range(len(stages))]
        self._opening = [_opening(*each) for each in zip(stages, requests, strict=True)]
        self._frames: Frames | None = None
        """Begun by the first frame: a stage that refuses need not hear of any. Or by `expect_frames`."""
        self._verdicts: Verdicts | None = None
        self._outbox: asyncio.Queue[Frame] = asyncio.Queue(capacity + OUTBOX_FRAMES)

    def expect_frames(self) -> Self:
        """Itself, about to be sent its first frame: the stream is made meanwhile."""
        self._begin_frames()
        return self

    async def opened(self) -> Self:
        """Itself, once every stage has reserved its positions. Raises what the first to refuse said, and has closed it then."""
        try:
            await self._reserved()
        except BaseException:
            await self.close()
            raise
        return self

    async def _reserved(self) -> None:
        await asyncio.wait(self._opening)
        for opening in self._opening:
            opening.result()

    @property
    def is_open(self) -> bool:
        """Whether every stage has reserved its positions."""
        return all(task.done() and not task.cancelled() and task.exception() is None for task in self._opening)

    def send(self, frame: Frame) -> None:
        """Raises TimedOut if the first stage has stopped reading long ago."""
        try:
            self._outbox.put_nowait(frame)
        except asyncio.QueueFull:
            raise self._frozen() from None

    async def serve(self, deliver: Callable[[LaneEvent], None]) -> NoReturn:
        """Write what is sent and deliver what comes, until it raises what ended the lane."""
        jobs = [asyncio.create_task(self._write_frames()), asyncio.create_task(self._read_verdicts(deliver))]
        try:
            ended, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        job = ended.pop()  # cancelled from within where the channel was closed
        raise (None if job.cancelled() else job.exception()) or PeerLost("the lane ended without a reason")

    async def _write_frames(self) -> NoReturn:
        while True:
            await self._write(await self._outbox.get())

    def _begin_frames(self) -> Frames:
        self._frames = stage_stub(self.stages[0].channel).StreamFrames()
        return self._frames

    async def _write(self, frame: Frame) -> None:
        first = not self.begun.is_set()
        request = stage_pb2.StreamFramesRequest(
            session_id=self._session_id if first else b"", frame=frame_to_wire(frame, ComputeTime())
        )
        frames = self._frames or self._begin_frames()
        self.bytes_sent += request.ByteSize()
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await frames.write(request)
            self.begun.set()
        except TimeoutError:
            raise self._frozen() from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            raise await self._reason() from None

    async def _read_verdicts(self, deliver: Callable[[LaneEvent], None]) -> NoReturn:
        if not self.is_open:
            await self.begun.wait()  # A prompt that does not wait for the opening does not wait for this either.
        self._verdicts = stage_stub(self.stages[-1].channel).StreamVerdicts(
            stage_pb2.StreamVerdictsRequest(session_id=self._session_id)
        )
        await self._reserved()
        draining = False
        try:
            async for message in self._verdicts:
                if message.draining and not draining:
                    draining = True
                    deliver(LaneDraining(self.lane))
                self.bytes_received += message.ByteSize()
                verdicts = self._believable(message)
                self.answered.set()
                deliver(VerdictsArrived(self.lane, verdicts, time_from_wire(message)))
        except grpc.aio.AioRpcError as failure:
            raise await self._reason(error_of(failure, f"the stage at {self.route[-1]}")) from None
        raise await self._reason()

    def _believable(self, message: stage_pb2.StreamVerdictsResponse) -> tuple[Verdict, ...]:
        try:
            return verdicts_from_wire(message, vocab_size=self._vocab_size)
        except ProtocolError as error:
            self.refuted = str(error)
            raise

    async def close(self) -> None:
        """Give the memory of every stage back that may have reserved some; one that cannot be reached notices the end of its
        stream."""
        self.begun.set()
        self.answered.set()
        # What is closed before it is open would open after that, and stay.
        await asyncio.wait(self._opening, timeout=CLOSE_SECONDS)
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        reserved = [stage for stage, opening in zip(self.stages, self._opening, strict=True) if not _is_full(opening)]
        await _close(reserved, self._session_id)
        if self._frames is not None:
            self._frames.cancel()
        if self._verdicts is not None:
            self._verdicts.cancel()

    def _frozen(self) -> TimedOut:
        return TimedOut(f"the stage at {self.route[0]} has stopped reading; it may be frozen")

    async def _reason(self, otherwise: DsdError | None = None) -> DsdError:
        """Why the lane ended. The stream of frames names the hop that failed, so it is heard first."""
        if self._frames is None or self._frames.cancelled():
            return otherwise or PeerLost(f"the lane by {self.route[0]} was given up")
        try:
            async with asyncio.timeout(DETAIL_SECONDS):
                await self._frames
        except grpc.aio.AioRpcError as failure:
            if failure.code() is not grpc.StatusCode.CANCELLED:
                return error_of(failure, f"the stage at {self.route[0]}")
        except TimeoutError:
            pass
        return otherwise or PeerLost(f"the stage at {self.route[0]} ended the session")


def _request(
    stages: Sequence[Stage], index: int, session_id: bytes, rule: ChoiceRule, capacity: int
) -> stage_pb2.OpenSessionRequest:
    """What the stage at `index` of a lane is told: its neighbours, and, at the end, how tokens are chosen."""
    upstream, downstream = stages[index - 1] if index else None, stages[index + 1] if index + 1 < len(stages) else None
    return stage_pb2.OpenSessionRequest(
        session_id=session_id,
        capacity=capacity,
        upstream_peer=public_bytes_of(upstream.peer) if upstream else b"",
        downstream=str(downstream.address) if downstream else "",
        downstream_peer=public_bytes_of(downstream.peer) if downstream else b"",
        sampling=None if downstream else rule_to_wire(rule),
        idle_seconds=IDLE_SECONDS,
    )


def _opening(stage: Stage, request: stage_pb2.OpenSessionRequest) -> asyncio.Task[None]:
    """Asked at once; the task raises what the stage says against it."""
    call = stage_stub(stage.channel).OpenSession(request, timeout=CALL_SECONDS)

    async def opened() -> None:
        try:
            await call
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, f"the stage at {stage.address}") from None

    return asyncio.create_task(opened())


def _is_full(opening: asyncio.Task[None]) -> bool:
    """Whether a stage has refused: asking it for more only adds to what it has to do."""
    return not opening.cancelled() and isinstance(opening.exception(), OutOfCapacity)


async def _close(stages: Sequence[Stage], session_id: bytes) -> None:
    """Asked once more where the connection broke: it may have been broken before, and nobody was asked."""
    request = stage_pb2.CloseSessionRequest(session_id=session_id)

    async def close(stage: Stage) -> None:
        with suppress(grpc.aio.UsageError):  # Our channel is closed: the stage will see that the stream ended.
            if await ask(stage) is grpc.StatusCode.UNAVAILABLE:
                await break_noticed(stage.channel)
                await ask(stage)  # If it is gone, the session is gone with it.

    async def ask(stage: Stage) -> grpc.StatusCode:
        return await stage_stub(stage.channel).CloseSession(request, timeout=CLOSE_SECONDS).code()

    await asyncio.gather(*map(close, stages))
