"""SERVING is what a token says that passed through the span, not what a socket says."""

import asyncio
import threading
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from dsd_core.errors import UnsupportedModel
from dsd_core.model.span import Span
from dsd_node.health import SERVICES, Health
from tests.conftest import LAYERS, InProcessSwarm, TinyModel, eventually
from tests.node.conftest import open_raw

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Watched:
    """A node's health as a caller sees it."""

    def __init__(self, health: Health, address: str) -> None:
        self.health = health
        self._address = address

    async def said(self, service: str = "") -> "HealthCheckResponse.ServingStatus.ValueType":
        async with grpc.aio.insecure_channel(self._address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return answer.status  # type: ignore[no-any-return]

    async def says(self, status: "HealthCheckResponse.ServingStatus.ValueType") -> None:
        async with asyncio.timeout(5):
            while await self.said() != status:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture(loop_scope="session")
async def watched(one_stage: InProcessSwarm) -> AsyncIterator[Watched]:
    health = Health(one_stage.nodes[0].engine)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    watch = asyncio.create_task(health.watch(every=0.02, limit=0.2))
    yield Watched(health, f"127.0.0.1:{port}")
    watch.cancel()
    await asyncio.wait([watch])
    await server.stop(None)


async def test_every_kind_of_span_passes_its_canary(one_stage: InProcessSwarm, four_stages: InProcessSwarm) -> None:
    for node in [*one_stage.nodes, *four_stages.nodes]:
        await node.engine.canary()
        assert node.engine.reserved_bytes == 0


async def test_a_node_that_computes_is_serving(watched: Watched) -> None:
    await watched.says(SERVING)
    assert [await watched.said(service) for service in SERVICES] == [SERVING, SERVING]


async def test_a_span_that_fails_is_not_serving_until_it_works_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Span, batch: object) -> None:
        raise UnsupportedModel("values left the range")

    with monkeypatch.context() as patch:
        patch.setattr(Span, "forward", broken)
        await watched.says(NOT_SERVING)
    await watched.says(SERVING)


async def test_a_thread_that_hangs_is_not_serving(
    watched: Watched, one_stage: InProcessSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    one_stage.nodes[0].engine._thread.submit(go_on.wait)
    try:
        await watched.says(NOT_SERVING)
    finally:
        go_on.set()
    await watched.says(SERVING)


async def test_a_draining_node_is_not_serving_any_more(watched: Watched) -> None:
    await watched.says(SERVING)
    await watched.health.drain()
    await watched.says(NOT_SERVING)
    await asyncio.sleep(0.1)  # several canaries
    assert await watched.said() == NOT_SERVING


async def test_a_node_at_work_needs_no_canary(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    spans: list[int] = []
    reserve = Span.reserve
    monkeypatch.setattr(Span, "reserve", lambda self, slots: spans.append(slots) or reserve(self, slots))
    await node.engine.canary(unless_within=60.0)
    assert spans == [1]
    async with open_raw([node], capacity=16) as session:
        await session.greedy([5, 6, 7], 2)
        await node.engine.canary(unless_within=60.0)
        assert spans == [1, 16]
        await node.engine.canary(unless_within=0.0)
        assert spans == [1, 16, 1]
    await eventually(lambda: node.sessions == 0)
