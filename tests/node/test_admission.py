"""Every call of a node has a proven caller within its quota; one peer cannot lock others out."""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2

from dsd_core.errors import DsdError, OutOfCapacity, PeerLost, Refused
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.channels import CLIENT_OPTIONS
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Secure
from dsd_core.wire import VERSIONS
from dsd_core.wire.codec import rule_to_wire
from dsd_core.wire.v1 import peer_pb2, stage_pb2
from dsd_node.admission import Admission
from dsd_node.quotas import MAX_CALLS, Limits, Quotas
from tests.conftest import CALLER, LAYERS, InProcessNode, InProcessSwarm, TinyModel, dial, eventually
from tests.node.conftest import GREEDY, SECONDS, failure_of, open_raw

METHODS: list[MethodDescriptor] = [
    method
    for file in (stage_pb2.DESCRIPTOR, peer_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
]


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


PATHS = list(map(_path, METHODS))


class Anonymous(Secure):
    """The transport of a node whose callers' certificates prove nothing."""

    def caller(self, context: Any) -> Any:
        raise Refused("the caller does not prove who it is")


@pytest_asyncio.fixture(loop_scope="session")
async def node(new_swarm: InProcessSwarm, target: TinyModel) -> InProcessNode:
    return await new_swarm.start(target, range(LAYERS))


async def call_bare(channel: grpc.aio.Channel, method: MethodDescriptor) -> DsdError:
    """One call that says nothing."""
    path = _path(method)
    # A stream says nothing at all: what it wrote would race with the refusal.
    call = channel.stream_stream(path)() if method.client_streaming else channel.unary_stream(path)(b"")
    try:
        async with asyncio.timeout(SECONDS):
            await call.read()
    except grpc.aio.AioRpcError as failure:
        return error_of(failure, path)
    raise AssertionError(f"{path} was served")


# -- S2: no call without identity --------------------------------------------------------------------------------------


class Everything(grpc.GenericRpcHandler):
    """Serves every method of every schema, in its own kind, to whoever gets that far."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = METHODS[PATHS.index(details.method)]

        async def answer(request: Any, context: Any) -> bytes:
            self.reached.append(details.method)
            return b""

        async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
            self.reached.append(details.method)
            yield b""

        return {
            (False, False): lambda: grpc.unary_unary_rpc_method_handler(answer),
            (False, True): lambda: grpc.unary_stream_rpc_method_handler(stream),
            (True, False): lambda: grpc.stream_unary_rpc_method_handler(answer),
            (True, True): lambda: grpc.stream_stream_rpc_method_handler(stream),
        }[method.client_streaming, method.server_streaming]()


@asynccontextmanager
async def everything(transport: Secure) -> AsyncIterator[tuple[Everything, Address]]:
    server = grpc.aio.server(interceptors=[Admission(transport, Quotas(Limits(0)), BannedPeers(None))])
    served = Everything()
    server.add_generic_rpc_handlers((served,))
    port = transport.listen(server, Address("127.0.0.1", 0))
    await server.start()
    yield served, Address("127.0.0.1", port)
    await server.stop(None)


async def test_a_caller_without_identity_reaches_no_method() -> None:
    transport = Anonymous.kept_in(None)
    async with everything(transport) as (served, address), CALLER.channel(address, transport.peer_id) as channel:
        for method in METHODS:
            error = await call_bare(channel, method)
            assert type(error) is Refused, method.full_name
            assert "who it is" in str(error)
        assert served.reached == []


async def test_a_caller_with_identity_reaches_every_method() -> None:
    transport = Secure.kept_in(None)
    async with everything(transport) as (served, address), CALLER.channel(address, transport.peer_id) as channel:
        for path in PATHS:
            call = channel.stream_stream(path)(iter([b""]))
            assert [answer async for answer in call] == [b""]
        assert served.reached == PATHS


async def test_a_call_in_the_clear_reaches_nothing() -> None:
    transport = Secure.kept_in(None)
    async with everything(transport) as (served, address):
        for method in METHODS:
            async with grpc.aio.insecure_channel(str(address), options=CLIENT_OPTIONS) as channel:
                assert isinstance(await call_bare(channel, method), DsdError)
        assert served.reached == []


def test_the_schemas_have_methods() -> None:
    assert {"/dsd.v1.StageService/OpenSession", "/grpc.health.v1.Health/Watch"} <= set(PATHS)


# -- S3: sessions are the opener's -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_a_thousand_calls_with_the_right_id_from_another_peer(node: InProcessNode) -> None:
    async with open_raw([node]) as session, dial(node, Secure.kept_in(None)) as channel:
        stub, texts = stage_stub(channel), set()

        async def listen(session_id: bytes) -> None:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session_id), timeout=SECONDS):
                    pass
            texts.add((caught.value.code(), caught.value.details()))

        for _ in range(20):
            await asyncio.gather(*(listen(session.session_id) for _ in range(50)))
        await listen(secrets.token_bytes(16))
        [(code, text)] = texts
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "no such session" in text
        assert len(await session.greedy([5, 6, 7], 2)) == 2


# -- bans --------------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def watched(node: InProcessNode) -> AsyncIterator[InProcessNode]:
    watch = asyncio.create_task(node.admission.watch_bans(every=0.01))
    yield node
    watch.cancel()
    await asyncio.wait([watch])


async def test_a_ban_ends_running_streams_and_refuses_new_calls(watched: InProcessNode) -> None:
    other = Secure.kept_in(None)
    async with open_raw([watched]) as session, dial(watched, other) as channel:
        await session.greedy([5, 6, 7], 2)
        await stage_stub(channel).Describe(_describe(), timeout=SECONDS)
        watched.admission._banned.ban(CALLER.peer_id, "it was rude")
        for error in (await session.failure(), await session.verdict_failure()):
            assert type(error) is Refused
            assert "banned" in str(error)
        await eventually(lambda: watched.sessions == 0 and watched.engine.reserved_bytes == 0)
        await stage_stub(channel).Describe(_describe(), timeout=SECONDS)
    async with dial(watched) as channel:
        assert "banned" in str(await failure_of(stage_stub(channel).Describe(_describe(), timeout=SECONDS)))


def test_bans_are_files_that_people_can_make_and_delete(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    banned, again = BannedPeers(tmp_path / "keys"), BannedPeers(tmp_path / "keys")
    assert CALLER.peer_id not in banned
    banned.ban(CALLER.peer_id, "a lie")
    banned.ban(CALLER.peer_id, "another lie")
    assert CALLER.peer_id in again
    (tmp_path / "keys" / "banned_peers" / CALLER.peer_id).unlink()
    assert CALLER.peer_id not in again


# -- S9, S11, R17: one peer cannot have it all -------------------------------------------------------------------------


async def test_two_thousand_streams_of_one_peer_leave_another_its_own(node: InProcessNode) -> None:
    refusals: Counter[type[DsdError]] = Counter()

    async def idle_stream(channel: grpc.aio.Channel) -> None:
        refusals[type(await failure_of_stream(stage_stub(channel).StreamFrames()))] += 1

    flood = Secure.kept_in(None)
    channels = [flood.channel(Address.parse(node.address), node.peer) for _ in range(10)]
    streams = [asyncio.create_task(idle_stream(channel)) for channel in channels for _ in range(200)]
    # Of streams that are refused while they are being opened, HTTP/2 drops some before the reason has left.
    await eventually(lambda: refusals.total() == 2000 - MAX_CALLS // 8, seconds=20)
    assert refusals[OutOfCapacity] > 1000
    assert set(refusals) <= {OutOfCapacity, PeerLost}
    async with open_raw([node]) as session:
        assert len(await session.greedy([5, 6, 7], 4)) == 4
    for stream in streams:
        stream.cancel()
    await asyncio.wait(streams)
    for channel in channels:
        await channel.close()
    await eventually(lambda: flood.peer_id not in node.admission._calls)


async def failure_of_stream(stream: Any) -> DsdError:
    try:
        await stream
    except grpc.aio.AioRpcError as failure:
        return error_of(failure, "the node")
    raise AssertionError("the stream was answered")


async def test_a_peer_cannot_take_more_than_its_share_of_memory(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    probe = await new_swarm.start(target, range(LAYERS))
    pool = probe.engine.span.kv_bytes(800)
    node = await new_swarm.start(target, range(LAYERS), Limits(kv_bytes=pool))
    async with dial(node, Secure.kept_in(None)) as greedy:
        answers = [await _open(greedy, 20) for _ in range(100)]
        taken = node.engine.reserved_bytes
        assert answers.count(None) == 5
        assert taken <= pool // 8
        assert all(answer.retry_after for answer in answers if isinstance(answer, OutOfCapacity))
    async with open_raw([node], capacity=60) as session:
        await session.greedy([5, 6, 7], 2)
        async with dial(node) as honest:
            await session.frames.done_writing()
            await session.frames
            # Known by now: it gets a quarter, and no more.
            answers = [await _open(honest, 20) for _ in range(100)]
    assert answers.count(None) == 10
    assert node.engine.reserved_bytes - taken <= pool // 4


async def test_a_thousand_sessions_that_are_too_large(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(LAYERS), Limits(kv_bytes=10_000))
    async with dial(node) as channel:
        answers = [error for _ in range(20) for error in await asyncio.gather(*(_open(channel, 512) for _ in range(50)))]
    assert [type(answer) for answer in answers] == [OutOfCapacity] * 1000
    assert (node.sessions, node.engine.reserved_bytes) == (0, 0)
    assert not any(answer.retry_after for answer in answers if isinstance(answer, OutOfCapacity))


async def _open(channel: grpc.aio.Channel, capacity: int) -> DsdError | None:
    session_id = secrets.token_bytes(16)
    request = stage_pb2.OpenSessionRequest(session_id=session_id, capacity=capacity, sampling=rule_to_wire(GREEDY))
    try:
        await stage_stub(channel).OpenSession(request, timeout=SECONDS)
    except grpc.aio.AioRpcError as failure:
        return error_of(failure, "the node")
    return None


def _describe() -> stage_pb2.DescribeRequest:
    return stage_pb2.DescribeRequest(protocol_version=VERSIONS.newest)


