"""A client that says exactly what a test wants it to say."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.frames import Verdict
from dsd_core.errors import DsdError
from dsd_core.network.identity import public_bytes_of
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.wire.codec import rule_to_wire, verdicts_from_wire
from dsd_core.wire.v1 import stage_pb2
from tests.conftest import InProcessNode, dial

SECONDS = 5.0
GREEDY = ChoiceRule(SamplingParams(seed=0))


@dataclass
class RawSession:
    """One session on a chain of stages. Ids are given out in order; nothing is checked before it is sent."""

    stubs: list[Any]
    session_id: bytes
    frames: Any = None
    answers: Any = None
    next_id: int = 1
    waiting: list[Verdict] = field(default_factory=list)

    async def send_run(self, tokens: Sequence[int], parent: int, *, keep: int = 0, wanted: Sequence[int] = (-1,)) -> list[int]:
        """A run of tokens, each the parent of the next. `wanted` are the offsets that want a verdict. Returns the ids."""
        ids = list(range(self.next_id, self.next_id + len(tokens)))
        self.next_id += len(tokens)
        marks = {ids[offset] for offset in wanted} if ids else set()
        await self.send(
            nodes=ids,
            parents=[parent, *ids][: len(ids)],
            tokens=tokens,
            wants_verdict=[node in marks for node in ids],
            keep=keep,
        )
        return ids

    async def send(self, **frame: Any) -> None:
        await self.frames.write(stage_pb2.StreamFramesRequest(session_id=self.session_id, frame=stage_pb2.Frame(**frame)))

    async def verdict(self) -> Verdict:
        """The next one."""
        while not self.waiting:
            async with asyncio.timeout(SECONDS):
                message = await self.answers.read()
            assert message is not grpc.aio.EOF
            self.waiting += verdicts_from_wire(message, vocab_size=10**6)
        return self.waiting.pop(0)

    async def nothing(self, seconds: float = 0.1) -> bool:
        """No verdict comes for a while. The session's verdicts cannot be read any more after that."""
        try:
            async with asyncio.timeout(seconds):
                await self.verdict()
        except TimeoutError:
            return True
        return False

    async def greedy(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        """Decode plainly."""
        ids = await self.send_run(prompt, 0)
        answer = [(await self.verdict()).choice]
        while len(answer) < new_tokens:
            ids = await self.send_run(answer[-1:], ids[-1], keep=ids[-1])
            answer.append((await self.verdict()).choice)
        return list(answer)

    async def failure(self) -> DsdError:
        """What ended the stream of frames."""
        return await failure_of(self.frames)

    async def verdict_failure(self) -> DsdError:
        """What ended the stream of verdicts."""
        return await failure_of(self._drain())

    async def _drain(self) -> None:
        while await self.answers.read() is not grpc.aio.EOF:
            pass


async def failure_of(call: Any) -> DsdError:
    try:
        async with asyncio.timeout(SECONDS):
            await call
    except grpc.aio.AioRpcError as failure:
        return error_of(failure, "the peer")
    raise AssertionError("the call did not fail")


async def refusal(node: InProcessNode, **request: Any) -> DsdError | None:
    """What a node says to OpenSession: None if it agrees."""
    sound: dict[str, Any] = {"session_id": secrets.token_bytes(16), "capacity": 8, "sampling": rule_to_wire(GREEDY)}
    async with dial(node) as channel:
        try:
            await stage_stub(channel).OpenSession(stage_pb2.OpenSessionRequest(**sound | request), timeout=SECONDS)
        except grpc.aio.AioRpcError as failure:
            return error_of(failure, node.address)
    return None


async def close_session(node: InProcessNode, session_id: bytes) -> None:
    async with dial(node) as channel:
        await stage_stub(channel).CloseSession(stage_pb2.CloseSessionRequest(session_id=session_id), timeout=SECONDS)


@asynccontextmanager
async def open_raw(
    nodes: Sequence[InProcessNode], *, capacity: int = 128, rule: ChoiceRule = GREEDY, idle_seconds: int = 0
) -> AsyncIterator[RawSession]:
    """Open at every stage, and both streams. Leaving it breaks the streams, as a client does that goes away."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(dial(node)) for node in nodes]
        session = RawSession([stage_stub(channel) for channel in channels], secrets.token_bytes(16))
        keys = [b"", *(public_bytes_of(node.peer) for node in nodes), b""]
        downstreams = [*(node.address for node in nodes[1:]), ""]
        for index, (stub, downstream) in enumerate(zip(session.stubs, downstreams, strict=True)):
            request = stage_pb2.OpenSessionRequest(
                session_id=session.session_id,
                capacity=capacity,
                upstream_peer=keys[index],
                downstream=downstream,
                downstream_peer=keys[index + 2],
                sampling=None if downstream else rule_to_wire(rule),
                idle_seconds=idle_seconds,
            )
            await stub.OpenSession(request, timeout=SECONDS)
        session.frames = session.stubs[0].StreamFrames()
        session.answers = session.stubs[-1].StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session.session_id))
        try:
            yield session
        finally:
            session.frames.cancel()
            session.answers.cancel()
