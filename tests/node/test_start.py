"""Starting a node: what keeps it from starting, and what it says when it has."""

import asyncio
import json
import socket

import pytest

from dsd_core.errors import AddressInUse, DsdError, InvalidSpan, ModelNotFound, UsageError
from dsd_core.network.address import Address
from dsd_core.network.identity import parse_peer_id
from dsd_core.network.join_token import JoinToken
from dsd_node.start import NodeConfig, parse_layers, serve
from tests.conftest import TinyModel, eventually

ANY = Address("127.0.0.1", 0)


@pytest.mark.parametrize(("text", "layers"), [("0:4", range(4)), ("1:3", range(1, 3)), ("2:9", range(2, 9))])
def test_layers(text: str, layers: range) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", ":", "1", "1:", ":2", "a:b", "-1:2", "1:2:3", "1-2", "1:²", " 1:2"])
def test_what_names_no_layers(text: str) -> None:
    with pytest.raises(InvalidSpan, match="names no layers"):
        parse_layers(text)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"listen": Address("0.0.0.0", 0), "insecure_loopback": True}, UsageError),
        ({"insecure_loopback": True, "join": ["127.0.0.1:1"]}, UsageError),
        ({"insecure_loopback": True, "private": True}, UsageError),
        ({"listen": Address("192.0.2.1", 4100)}, AddressInUse),
        ({"layers": "3:9"}, InvalidSpan),
        ({"layers": "2:2"}, InvalidSpan),
        ({"layers": "3:1"}, InvalidSpan),
        ({"device": "toaster"}, UsageError),
        ({"model": "/no/such/model"}, ModelNotFound),
    ],
)
async def test_what_keeps_a_node_from_starting(target: TinyModel, config: dict[str, object], kind: type[DsdError]) -> None:
    given: dict[str, object] = {"model": str(target), "layers": None, "listen": ANY, "device": "cpu"}
    with pytest.raises(DsdError) as caught:
        await serve(NodeConfig(**given | config))  # type: ignore[arg-type]
    assert type(caught.value) is kind


async def test_a_port_in_use(target: TinyModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(*taken.getsockname())
        with pytest.raises(AddressInUse, match=str(address)):
            await serve(NodeConfig(str(target), None, address, device="cpu"))


async def test_a_node_says_that_it_is_ready_and_stops_when_cancelled(
    target: TinyModel, capsys: pytest.CaptureFixture[str]
) -> None:
    announce = Address("127.0.0.2", 9)
    node = asyncio.create_task(serve(NodeConfig(str(target), "1:3", ANY, announce, device="cpu", json=True)))
    output: list[str] = []
    await eventually(lambda: output.append(capsys.readouterr().out) or any(output))  # type: ignore[func-returns-value]
    said = json.loads("".join(output))
    peer = parse_peer_id(said.pop("peer_id"))
    assert JoinToken.decode(said.pop("join")).seeds == ((announce, peer),)
    assert said == {"event": "ready", "address": "127.0.0.2:9", "model": str(target), "layers": [1, 3]}
    node.cancel()
    await asyncio.wait([node])
    assert node.cancelled()
