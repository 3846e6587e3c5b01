"""What the doctor finds, with a peer that dials back, and that nobody else can be dialled through a peer."""

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from dsd_core.errors import OutOfCapacity, ProtocolError
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.stubs import peer_stub
from dsd_core.network.transport import Secure
from dsd_core.wire.v1 import peer_pb2
from dsd_node.dial_back import DialBack, calling_host
from dsd_node.doctor import doctor
from dsd_node.start import NodeConfig
from tests.conftest import TinyModel
from tests.membership.nodes import GossipNode
from tests.ports import free_port


@pytest_asyncio.fixture(loop_scope="session")
async def peer() -> AsyncIterator[GossipNode]:
    node = await GossipNode.start()
    yield node
    await node.kill()


@pytest_asyncio.fixture(loop_scope="session")
async def config(target: TinyModel, peer: GossipNode, tmp_path: Path) -> NodeConfig:
    here = Address("127.0.0.1", free_port())
    return NodeConfig(str(target), None, here, device="cpu", json=True, data_dir=tmp_path / "data", join=[peer.token])


async def found(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    well = await doctor(config)
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    findings = {finding["subject"]: (finding["verdict"], finding["says"]) for finding in said["findings"]}
    assert said["well"] is well is all(verdict != "wrong" for verdict, _ in findings.values())
    return findings


async def test_all_is_well(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    findings = await found(config, capsys)
    assert list(findings) == [
        "libraries", "model", "device", "memory", "model cache", "identity", "port", "TLS", "round trip", "clock", "reachable"
    ]  # fmt: skip
    assert {verdict for verdict, _ in findings.values()} == {"ok"}
    assert str(config.listen) in findings["reachable"][1]


async def test_a_port_that_others_do_not_reach(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    findings = await found(replace(config, announce=Address("127.0.0.1", free_port())), capsys)
    assert findings["reachable"][0] == "wrong"
    assert "does not reach us" in findings["reachable"][1]


async def test_an_address_that_is_not_ours_to_announce(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    announced = Address("127.0.0.99", config.listen.port)
    findings = await found(replace(config, announce=announced), capsys)
    assert findings["reachable"] == (
        "wrong", f"at {config.listen}, but others would dial {announced}; start the node with --announce {config.listen}"
    )  # fmt: skip


async def test_a_port_that_is_taken(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((config.listen.host, config.listen.port)):
        findings = await found(config, capsys)
    assert findings["port"][0] == "wrong"
    assert "another program" in findings["port"][1]


async def test_a_peer_that_is_not_there(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    findings = await found(replace(config, join=[f"127.0.0.1:{free_port()}"]), capsys)
    assert findings["peer"][0] == "wrong"
    assert "nothing answers" in findings["peer"][1]


async def test_nobody_to_ask_is_no_fault(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    findings = await found(replace(config, join=[]), capsys)
    assert findings["reachable"][0] == "warning"


async def test_a_machine_too_small_and_a_model_that_is_not_there(
    config: NodeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await found(replace(config, memory=1000, join=[]), capsys))["memory"][0] == "wrong"
    assert (await found(replace(config, model="/nowhere", join=[]), capsys))["model"][0] == "wrong"


async def test_for_people(config: NodeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert await doctor(replace(config, json=False))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 11
    assert all(line.startswith("ok ") for line in shown)


# -- dialling back -----------------------------------------------------------------------------------------------------


async def test_it_must_be_the_callers_own_key_that_answers(peer: GossipNode) -> None:
    assert await DialBack().reaches(peer.peer, peer.address) == ""
    said = await DialBack().reaches(Identity.ephemeral().peer_id, peer.address)
    assert said == f"another peer, {peer.peer}, answers at {peer.address}"


async def test_a_host_is_dialled_only_now_and_then(peer: GossipNode) -> None:
    dial_back = DialBack()
    await dial_back.reaches(peer.peer, peer.address)
    with pytest.raises(OutOfCapacity, match="only now and then") as refused:
        await dial_back.reaches(Identity.ephemeral().peer_id, replace(peer.address, port=1))
    assert refused.value.retry_after is not None


async def test_a_port_that_is_none(peer: GossipNode) -> None:
    async with Secure.kept_in(None).channel(peer.address, peer.peer) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="no port"):
            await peer_stub(channel).DialBack(peer_pb2.DialBackRequest(port=70000), timeout=5)


@pytest.mark.parametrize(
    ("peer_text", "host"),
    [("ipv4:127.0.0.1:4100", "127.0.0.1"), ("ipv6:%5B::1%5D:4100", "::1"), ("ipv6:%5B::ffff:10.0.0.1%5D:1", "10.0.0.1")],
)
def test_who_calls(peer_text: str, host: str) -> None:
    assert calling_host(peer_text) == host


@pytest.mark.parametrize("peer_text", ["unix:/tmp/socket", "", "ipv4:"])
def test_a_caller_without_an_address(peer_text: str) -> None:
    with pytest.raises(ProtocolError):
        calling_host(peer_text)
