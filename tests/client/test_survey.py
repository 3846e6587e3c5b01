"""Whether a model is covered, by whom, and in what state they are."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dsd_client import Client
from dsd_client.commands.status import status
from dsd_client.swarm import LOOK_SECONDS
from dsd_core.errors import NoPeers, NotCovered, Refused
from dsd_core.membership.ids import handle_of
from tests.client.test_discovery import Members, members
from tests.conftest import LAYERS, InProcessNode, InProcessSwarm, TinyModel
from tests.ports import free_port

__all__ = ["members"]


async def seen(target: TinyModel, join: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> dict[str, Any]:
    problem = None
    try:
        await status(join, str(target), tmp_path, insecure_loopback=False, as_json=True)
    except (NoPeers, NotCovered, Refused) as error:
        problem = error
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["covered"] is (problem is None)
    assert found["problem"] == (str(problem) if problem else None)
    return found


def suspect_for_long(members: Members, node: InProcessNode) -> None:
    """By all others, whichever of them a client may ask. By itself a suspicion is over in half a second here."""
    for seat, other in zip(members.seats, members.swarm.nodes, strict=True):
        if other is not node:
            suspected = seat.gossiper._membership.table.suspected
            suspected[handle_of(node.peer)] = asyncio.get_running_loop().time() + 60


async def test_a_model_that_is_covered(
    members: Members, target: TinyModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = await members.start(range(2))
    second = await members.start(range(2, LAYERS), [first.address])
    found = await seen(target, [second.address], capsys, tmp_path)
    assert found["num_layers"] == LAYERS
    assert [(peer["address"], peer["layers"], peer["peer_id"]) for peer in found["peers"]] == [
        (first.address, [0, 2], first.peer), (second.address, [2, LAYERS], second.peer)
    ]  # fmt: skip
    for peer in found["peers"]:
        assert (peer["state"], peer["in_route"], peer["free_positions"]) == ("serving", True, 1000)
        assert 0 < peer["round_trip_seconds"] < 10


async def test_who_drains_and_who_is_unreachable(
    members: Members, target: TinyModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = await members.start(range(2))
    draining = await members.start(range(2, LAYERS), [first.address])
    draining.service._draining = True
    nobody = f"127.0.0.1:{free_port()}"
    found = await seen(target, [first.address, nobody], capsys, tmp_path)
    assert {peer["address"]: peer["state"] for peer in found["peers"]} == {
        first.address: "serving", draining.address: "draining", nobody: "unreachable"
    }  # fmt: skip
    assert "layer 2" in found["problem"]


async def test_who_is_suspected(
    members: Members, target: TinyModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By others, of a peer that does not answer us either. One that answers us is what it says itself."""
    first = await members.start(range(LAYERS))
    others = [await members.start(range(2), [first.address]), await members.start(range(2, LAYERS), [first.address])]
    await members.kill(others[0])
    for other in others:  # of one of them wrongly
        suspect_for_long(members, other)
    found = await seen(target, [first.address], capsys, tmp_path)
    assert {peer["address"]: (peer["state"], tuple(peer["layers"])) for peer in found["peers"]} == {
        first.address: ("serving", (0, LAYERS)),
        others[0].address: ("suspected", (0, 2)),
        others[1].address: ("serving", (2, LAYERS)),
    }
    assert next(peer for peer in found["peers"] if peer["state"] == "suspected")["problem"]


async def test_the_gateways_page_is_told_the_same(members: Members, target: TinyModel) -> None:
    first = await members.start(range(LAYERS))
    gone = await members.start(range(2), [first.address])
    leaving = await members.start(range(2, LAYERS), [first.address])
    leaving.service._draining = True
    async with Client([first.address], str(target), "none") as client:
        await members.kill(gone)
        suspect_for_long(members, gone)
        await asyncio.sleep(LOOK_SECONDS)
        assert {peer.address: peer.state for peer in await client.peers()} == {
            first.address: "serving", gone.address: "suspected", leaving.address: "draining"
        }  # fmt: skip
        # It is in no chain, so nobody waits for it.
        assert (await client.generate("the quick", max_new_tokens=3)).stats.reroutes == 0


async def test_peers_of_another_model(
    one_stage: InProcessSwarm, stranger: TinyModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = await seen(stranger, one_stage.addresses, capsys, tmp_path)
    assert [peer["state"] for peer in found["peers"]] == ["refused"]
    assert "serves another model" in found["problem"]


async def test_the_table(
    two_stages: InProcessSwarm, target: TinyModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    await status(two_stages.addresses, str(target), tmp_path, insecure_loopback=False, as_json=False)
    shown = capsys.readouterr().out
    assert "0:2" in shown
    assert " ms" in shown
    assert f"all {LAYERS} layers" in shown
    assert " -> ".join(two_stages.addresses) in shown.replace("\n", " ")


async def test_nobody_is_known(target: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(NoPeers, match="no peer was named"):
        await status([], str(target), tmp_path, insecure_loopback=False, as_json=False)
