"""One session on this stage: frames come in, take their turn, and go on.

    upstream --read--> tree, inbox --take turns--> engine --> downstream, or verdicts to the client

The session lives as long as its stream of frames: whoever breaks that gives the memory back all the way down the lane.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.frames import ComputeTime, Frame
from dsd_core.decoding.stage_tree import StageTree
from dsd_core.errors import DsdError, PeerLost, ProtocolError, Refused, TimedOut
from dsd_core.model import tensors
from dsd_core.model.kv import KvStore
from dsd_core.network.identity import PeerId
from dsd_core.wire.codec import frame_from_wire, frame_to_wire, time_from_wire, verdicts_to_wire
from dsd_core.wire.hidden import HiddenStates, hidden_from_wire, hidden_to_wire
from dsd_core.wire.v1 import stage_pb2
from dsd_node.downstream import Downstream
from dsd_node.engine import Computed, Engine
from dsd_node.metrics import Metrics

INBOX_FRAMES = 64
VERDICT_BATCHES = 256
FIRST_FRAME_SECONDS = 60.0
"""How long memory waits for a session's first frame: who asked for it may have vanished before anything tied it to a stream."""


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A frame that waits for its turn."""

    frame: Frame
    hidden: HiddenStates | None
    time: ComputeTime
    draining: bool
    """A stage before this one will soon be gone."""
    at: float


class ServedSession:
    """A session's tree, its memory, and the tasks that move its frames. Exactly one of `downstream` and `rule` is set."""

    def __init__(
        self,
        engine: Engine,
        kv: KvStore,
        *,
        owner: PeerId,
        upstream: PeerId,
        downstream: Downstream | None,
        rule: ChoiceRule | None,
        metrics: Metrics,
        idle_seconds: float,
        now: float,
    ) -> None:
        self.owner = owner
        """Who opened it: nobody else reads its verdicts or closes it."""
        self.upstream = upstream
        """Who sends its frames: nobody else may."""
        self.draining = False
        """This stage will soon be gone: said with all that is passed on."""
        self.idle_seconds = idle_seconds
        self.last_frame_at = now
        self.has_computed = False
        """Whether any frame came out at the other end."""
        self._engine = engine
        self._kv = kv
        self._downstream = downstream
        self._rule = rule
        self._metrics = metrics
        self._tree = StageTree(kv.capacity)
        self._inbox: asyncio.Queue[_Arrived] = asyncio.Queue(INBOX_FRAMES)
        self._verdicts: asyncio.Queue[stage_pb2.StreamVerdictsResponse | DsdError] = asyncio.Queue(VERDICT_BATCHES)
        self._attached = False
        self._heard = False
        self._closed: asyncio.Future[DsdError] = asyncio.get_running_loop().create_future()

    def attach(self) -> None:
        """Claim the session for a stream of frames. Raises Refused if another has it."""
        if self._attached:
            raise Refused("the session already has a stream of frames; open a session of your own")
        self._attached = True

    async def serve(self, requests: AsyncIterator[stage_pb2.StreamFramesRequest], first: stage_pb2.StreamFramesRequest) -> None:
        """Serve the attached session until its stream ends. Raises what else ended it."""
        jobs = [self._read(requests, first), self._compute(), self._until_closed()]
        if self._downstream is not None:
            jobs.append(self._downstream.watch())
        try:
            await _first_of(jobs)
        finally:
            # gRPC keeps the traceback of how a stream ended, and with it this session, until another ends.
            self._tree = StageTree(0)

    async def verdicts(self) -> AsyncIterator[stage_pb2.StreamVerdictsResponse]:
        """For the client. Ends by raising what ended the session."""
        if self._rule is None:
            raise Refused("this stage is not the last of the session's lane, so it gives no verdicts")
        if self._heard:
            raise Refused("the session's verdicts are being read already; open a session of your own")
        self._heard = True
        while True:
            batch = await self._verdicts.get()
            if isinstance(batch, DsdError):
                raise batch
            yield batch

    async def close(self, reason: DsdError) -> None:
        """Stop all work and give the memory back. Twice does no harm."""
        if self._closed.done():
            return
        self._closed.set_result(reason)
        if self._downstream is not None:
            self._downstream.close()
        if self._verdicts.full():
            self._verdicts.get_nowait()
        self._verdicts.put_nowait(reason)
        await self._engine.release(self._kv)

    def overdue(self, now: float) -> DsdError | None:
        """What to close the session with, if it gets no frames or cannot pass them on."""
        limit = self.idle_seconds if self._attached else min(self.idle_seconds, FIRST_FRAME_SECONDS)
        if now - self.last_frame_at > limit:
            return TimedOut(f"the session was closed after {limit:.0f} idle seconds; open a new one")
        return self._downstream.stuck(now) if self._downstream is not None else None

    async def _until_closed(self) -> None:
        raise await asyncio.shield(self._closed)  # else to cancel this job would be to cancel the future

    # -- in ------------------------------------------------------------------------------------------------------------

    async def _read(
        self, requests: AsyncIterator[stage_pb2.StreamFramesRequest], first: stage_pb2.StreamFramesRequest
    ) -> None:
        await self._accept(first.frame)
        async for request in requests:
            await self._accept(request.frame)

    async def _accept(self, message: stage_pb2.Frame) -> None:
        """Check and register a frame at arrival. A full inbox makes the sender wait."""
        span = self._engine.span
        frame = frame_from_wire(message, vocab_size=span.vocab_size)
        hidden = self._hidden(message, len(frame.nodes))
        self.last_frame_at = asyncio.get_running_loop().time()
        self._tree.register(frame)
        now = time.perf_counter()  # a loop's own clock may tick in whole milliseconds
        await self._inbox.put(_Arrived(frame, hidden, time_from_wire(message), message.draining, now))

    def _hidden(self, message: stage_pb2.Frame, rows: int) -> HiddenStates | None:
        span = self._engine.span
        if message.HasField("hidden") == span.starts:
            raise ProtocolError("the first stage takes no hidden states, and every other stage takes nothing else")
        if span.starts:
            return None
        return hidden_from_wire(message.hidden, rows=rows, width=span.hidden_size, dtype=tensors.wire_dtype(span.dtype))

    # -- out -----------------------------------------------------------------------------------------------------------

    async def _compute(self) -> None:
        while True:
            arrived = await self._inbox.get()
            computed = await self._engine.compute(self._tree, self._kv, arrived.frame, arrived.hidden, self._rule)
            self._metrics.on_turn(nodes=len(arrived.frame.nodes), alive=len(computed.frame.nodes) if computed else 0)
            if computed is not None:
                self.has_computed = True
                waited = time.perf_counter() - arrived.at - computed.seconds
                self._metrics.on_computed(waited_seconds=waited, seconds=computed.seconds)
                await self._pass_on(computed, arrived)

    async def _pass_on(self, computed: Computed, arrived: _Arrived) -> None:
        spent, draining = arrived.time.plus(computed.seconds), arrived.draining or self.draining
        if computed.hidden is not None and self._downstream is not None:
            hidden = hidden_to_wire(computed.hidden)
            self._metrics.on_sent(len(hidden.data))  # not all of the message: to learn its size costs as much as to write it
            await self._downstream.send(frame_to_wire(computed.frame, spent, hidden, draining=draining))
        elif computed.verdicts:
            await self._verdicts.put(verdicts_to_wire(computed.verdicts, spent, draining=draining))


async def _first_of(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run jobs together until one ends; stop the others, wait for them, and raise what any of them raised."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


def session_ended() -> PeerLost:
    """What a client hears when the upstream side of a session has gone."""
    return PeerLost("the session was closed")
