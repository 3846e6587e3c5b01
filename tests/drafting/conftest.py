"""Drafter peers behind real sockets: honest ones, and ones that do as they are told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc.aio
import pytest_asyncio

from dsd_core.model.span import Span
from dsd_core.model.tokenizer import vocabulary_hash
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.channels import SERVER_OPTIONS
from dsd_core.network.identity import PeerId
from dsd_core.network.transport import Secure
from dsd_core.wire import VERSIONS
from dsd_core.wire.v1 import drafter_pb2, drafter_pb2_grpc
from dsd_node.admission import Admission
from dsd_node.draft_service import DraftService
from dsd_node.quotas import Limits, Quotas
from dsd_node.service import limits_of
from tests.conftest import CALLER, LAYERS, TinyModel, WatchedEngine

Answer = Callable[[drafter_pb2.DraftContexts], Any]
"""What a scripted drafter says; None ends the stream, an awaitable is waited for."""


@dataclass
class DrafterNode:
    """A drafter peer in this process."""

    server: grpc.aio.Server
    address: str
    peer: PeerId
    service: Any
    quotas: Quotas | None

    @property
    def sessions(self) -> int:
        assert self.quotas is not None
        return len(self.quotas._sessions)

    def dial(self, transport: Secure = CALLER) -> grpc.aio.Channel:
        return transport.channel(Address.parse(self.address), self.peer)

    async def kill(self) -> None:
        await self.server.stop(None)


class Scripted(drafter_pb2_grpc.DraftServiceServicer):
    """Says what it is told to say."""

    def __init__(self, vocabulary: str, answer: Answer) -> None:
        self.vocabulary = vocabulary
        self.answer = answer
        self.stalls_at = ""
        """"describing" or "opening"."""
        self.opened: list[drafter_pb2.OpenDrafts] = []
        self.asked: list[drafter_pb2.DraftContexts] = []

    async def DescribeDrafter(self, request: Any, context: Any) -> drafter_pb2.DescribeDrafterResponse:
        if self.stalls_at == "describing":
            await asyncio.Event().wait()
        return drafter_pb2.DescribeDrafterResponse(
            protocol_version=VERSIONS.newest, vocabulary_hash=bytes.fromhex(self.vocabulary), max_positions=512
        )

    async def StreamDrafts(self, request_iterator: Any, context: Any) -> AsyncIterator[drafter_pb2.StreamDraftsResponse]:
        async for request in request_iterator:
            if request.HasField("open"):
                self.opened.append(request.open)
                if self.stalls_at == "opening":
                    await asyncio.Event().wait()
                yield drafter_pb2.StreamDraftsResponse()
                continue
            self.asked.append(request.contexts)
            answer = self.answer(request.contexts)
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer is None:
                return
            yield answer


async def listening(servicer: Any, transport: Secure, quotas: Quotas | None = None, **options: Any) -> DrafterNode:
    server = grpc.aio.server(options=SERVER_OPTIONS, **options)
    drafter_pb2_grpc.add_DraftServiceServicer_to_server(servicer, server)
    port = transport.listen(server, Address("127.0.0.1", 0))
    await server.start()
    return DrafterNode(server, f"127.0.0.1:{port}", transport.peer_id, servicer, quotas)


@pytest_asyncio.fixture(loop_scope="session")
async def start_drafter() -> AsyncIterator[Callable[..., Awaitable[DrafterNode]]]:
    """Starts a drafter peer with a model."""
    async with AsyncExitStack() as stack:

        async def start(model: TinyModel, limits: Limits | None = None) -> DrafterNode:
            transport, engine = Secure.kept_in(None), WatchedEngine(Span.load(model.source, range(LAYERS), device="cpu"))
            quotas = Quotas(limits or limits_of(engine, model.source))
            admission = Admission(transport, quotas, BannedPeers(None))
            service = DraftService(model.source, engine, transport, quotas)
            node = await listening(service, transport, quotas, interceptors=[admission])
            stack.callback(engine.close)
            stack.push_async_callback(node.kill)
            return node

        yield start


@pytest_asyncio.fixture(loop_scope="session")
async def script(target: TinyModel) -> AsyncIterator[Callable[[Answer], Awaitable[DrafterNode]]]:
    """Starts a drafter peer that does as it is told."""
    async with AsyncExitStack() as stack:

        async def start(answer: Answer) -> DrafterNode:
            node = await listening(Scripted(vocabulary_hash(target.tokenizer), answer), Secure.kept_in(None))
            stack.push_async_callback(node.kill)
            return node

        yield start
