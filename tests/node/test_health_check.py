"""`dsd-node health` leaves with 0 for a node that serves, and says of every other what is wrong."""

import asyncio
import json
import threading

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2_grpc

from dsd_core.errors import NoPeers, Refused
from dsd_core.model.span import Span
from dsd_core.network.address import Address
from dsd_core.network.transport import Secure
from dsd_node.health import Health
from dsd_node.health_check import require_healthy
from dsd_node.membership.place import Place
from dsd_node.start import NodeConfig, serve
from tests.conftest import InProcessSwarm, TinyModel, eventually
from tests.ports import free_port


async def test_nobody_is_there() -> None:
    with pytest.raises(NoPeers, match="nothing answers"):
        await require_healthy(f"127.0.0.1:{free_port()}", insecure_loopback=False)


async def test_a_node_is_healthy_once_it_has_loaded(target: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load(place: Place, layers: range) -> Span:
        loading.set()
        loaded.wait(10)
        return Span.load(place.source, layers, device="cpu")

    address = Address("127.0.0.1", free_port())
    node = asyncio.create_task(serve(NodeConfig(str(target), None, address, device="cpu", json=True), load))
    await eventually(loading.is_set)
    with pytest.raises(Refused, match="still loading"):
        await require_healthy(str(address), insecure_loopback=False)
    loaded.set()
    output: list[str] = []
    await eventually(lambda: output.append(capsys.readouterr().out) or any(output))  # type: ignore[func-returns-value]
    await require_healthy(str(address), insecure_loopback=False)
    await require_healthy(json.loads("".join(output))["join"], insecure_loopback=False)
    node.cancel()
    await asyncio.wait([node])


async def test_a_private_swarm_answers_to_its_token(target: TinyModel, capsys: pytest.CaptureFixture[str]) -> None:
    config = NodeConfig(str(target), None, Address("127.0.0.1", free_port()), device="cpu", json=True, private=True)
    node = asyncio.create_task(serve(config))
    output: list[str] = []
    await eventually(lambda: output.append(capsys.readouterr().out) or any(output))  # type: ignore[func-returns-value]
    await require_healthy(json.loads("".join(output))["join"], insecure_loopback=False)
    with pytest.raises(Refused, match="private"):
        await require_healthy(str(config.listen), insecure_loopback=False)
    node.cancel()
    await asyncio.wait([node])


async def test_a_node_that_drains_is_not_healthy(one_stage: InProcessSwarm) -> None:
    transport, health = Secure.kept_in(None), Health(one_stage.nodes[0].engine)
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    port = transport.listen(server, Address("127.0.0.1", 0))
    await server.start()
    await require_healthy(f"127.0.0.1:{port}", insecure_loopback=False)
    await health.drain()
    with pytest.raises(Refused, match="does not serve right now"):
        await require_healthy(f"127.0.0.1:{port}", insecure_loopback=False)
    await server.stop(None)
