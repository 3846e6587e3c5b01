"""Nodes that are told whom to join, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dsd_client import Client
from dsd_core.errors import ModelNotFound, NoPeers
from dsd_core.network.address import Address
from dsd_node.membership import mover
from dsd_node.membership.place import find_place
from dsd_node.start import NodeConfig, serve
from tests.conftest import LAYERS, TinyModel, eventually

ROUND_SECONDS = 0.2
ANY = Address("127.0.0.1", 0)


def config(join: Sequence[str], **settings: Any) -> NodeConfig:
    given: dict[str, Any] = {"model": None, "layers": None, "listen": ANY, "device": "cpu", "json": True}
    return NodeConfig(**given | {"join": join, "round_seconds": ROUND_SECONDS} | settings)


@dataclass
class Nodes:
    """Nodes in this process, and what each said when it was ready."""

    read: Callable[[], str]
    running: "list[asyncio.Task[None]]" = field(default_factory=list)
    ready: list[dict[str, Any]] = field(default_factory=list)
    heard: int = 0

    async def start(self, *configs: NodeConfig) -> list[dict[str, Any]]:
        """All at once; returns when all are ready."""
        self.running += [asyncio.create_task(serve(one)) for one in configs]
        return [await self.another() for _ in configs]

    async def another(self) -> dict[str, Any]:
        """What the next one says that is ready."""
        await eventually(lambda: self._count() > self.heard, seconds=30.0)
        self.heard += 1
        return self.ready[self.heard - 1]

    async def end(self, index: int) -> None:
        task = self.running.pop(index)
        task.cancel()
        await asyncio.wait([task])

    def _count(self) -> int:
        for task in self.running:
            if task.done():
                task.result()
        self.ready += map(json.loads, self.read().splitlines())
        return len(self.ready)

    async def stop(self) -> None:
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)


@pytest.fixture
def nodes(capsys: pytest.CaptureFixture[str]) -> Nodes:
    return Nodes(lambda: capsys.readouterr().out)


@asynccontextmanager
async def stopped(nodes: Nodes) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await nodes.stop()


def room_for(target: TinyModel, layers: range) -> int:
    return find_place(str(target), "cpu", "auto", None, ()).size.span_bytes(layers)


async def test_a_newcomer_serves_what_its_swarm_lacks(target: TinyModel, nodes: Nodes) -> None:
    """The model is named by the one that is there, the layers are those that it does not hold; and together they answer."""
    async with stopped(nodes):
        (first,) = await nodes.start(config((), model=str(target), layers="0:1"))
        (second,) = await nodes.start(config([first["join"]], memory=room_for(target, range(1, LAYERS))))
        assert (second["model"], second["layers"]) == (str(target), [1, LAYERS])
        async with Client([second["join"]], str(target), "none") as client:
            prompt = list(range(5, 12))
            answer = await client.generate(prompt, max_new_tokens=8)
    target.greedy(prompt, 8).assert_same(answer.token_ids)


async def test_newcomers_that_come_at_once_share_out_what_is_lacking(target: TinyModel, nodes: Nodes) -> None:
    """Each has room for one layer, and chooses before it can know of the others; in the end every layer is held once."""
    async with stopped(nodes):
        (first,) = await nodes.start(config((), model=str(target), layers="0:1"))
        room = room_for(target, range(LAYERS - 1, LAYERS))
        others = await nodes.start(*[config([first["join"]], memory=room)] * (LAYERS - 1))
    assert sorted(one["layers"] for one in others) == [[layer, layer + 1] for layer in range(1, LAYERS)]


async def test_who_joins_nobody_has_to_name_a_model() -> None:
    with pytest.raises(NoPeers, match="name a --model"):
        await serve(config(["127.0.0.1:9"]))


async def test_a_model_that_is_not_to_be_had_is_said_by_name(target: TinyModel, nodes: Nodes, tmp_path: Path) -> None:
    """The one that is there calls it by a path that was its own alone."""
    moved = tmp_path / "model"
    moved.symlink_to(target.directory)
    async with stopped(nodes):
        (first,) = await nodes.start(config((), model=str(moved), layers="0:1"))
        moved.unlink()
        with pytest.raises(ModelNotFound, match="name your copy"):
            await serve(config([first["join"]]))


async def test_a_node_goes_over_to_layers_that_nobody_holds_any_more(
    target: TinyModel, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the only one that held the first half is gone, and two hold the second, of which one may choose."""
    monkeypatch.setattr(mover, "LOOK_ROUNDS", 2.0)
    room = max(room_for(target, half) for half in (range(2), range(2, LAYERS)))
    async with stopped(nodes):
        (first,) = await nodes.start(config((), model=str(target), layers="0:2"))
        (second,) = await nodes.start(config([first["join"]], memory=room))
        (third,) = await nodes.start(config([second["join"]], model=str(target), layers="2:4"))
        assert second["layers"] == third["layers"] == [2, 4]
        await nodes.end(0)
        again = await nodes.another()
        assert (again["layers"], again["address"], again["model"]) == ([0, 2], second["address"], str(target))
        async with Client([third["join"]], str(target), "none") as client:
            answer = await client.generate(list(range(5, 12)), max_new_tokens=4)
    target.greedy(list(range(5, 12)), 4).assert_same(answer.token_ids)
