"""How a session opens: its first frame does not wait for that, and what could not be opened gives back what it has."""

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest

from dsd_client import Client, lane_link
from dsd_client.swarm import Swarm
from dsd_core.errors import OutOfCapacity, UsageError
from tests.conftest import LAYERS, InProcessNode, InProcessSwarm, TinyModel, eventually

PROMPT = [5, 6, 7]


def reserve_once_it_is_awaited(node: InProcessNode) -> None:
    reserve = node.engine.reserve

    async def reserve_later(slots: int) -> Any:
        await eventually(lambda: node.service._openings._awaited)
        return await reserve(slots)

    node.engine.reserve = reserve_later  # type: ignore[method-assign]


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("speculation", ["off", "streaming"])
async def test_the_first_frame_is_there_before_the_session(
    new_swarm: InProcessSwarm, target: TinyModel, drafter: TinyModel, stages: int, speculation: str
) -> None:
    """No stage has memory for the session before a stream of it has come; so one that waited to be opened would fail."""
    per_stage = LAYERS // stages
    for start in range(0, LAYERS, per_stage):
        reserve_once_it_is_awaited(await new_swarm.start(target, range(start, start + per_stage)))
    async with Client(new_swarm.addresses, str(target), str(drafter)) as client:
        result = await client.generate(PROMPT, max_new_tokens=5, speculation=speculation)
        target.greedy(PROMPT, 5).assert_same(result.token_ids)
    await new_swarm.is_free()


async def test_a_chain_that_refuses_is_replaced(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    refused: list[InProcessNode] = []

    def refuse_first(node: InProcessNode) -> None:
        reserve = node.engine.reserve

        async def reserve_or_refuse(slots: int) -> Any:
            if not refused:
                refused.append(node)
                raise OutOfCapacity("no memory left")
            return await reserve(slots)

        node.engine.reserve = reserve_or_refuse  # type: ignore[method-assign]

    for _ in range(2):
        refuse_first(await new_swarm.start(target, range(LAYERS)))
    async with Client(new_swarm.addresses, str(target), "none") as client:
        served = set[str]()
        async for chunk in client.stream(PROMPT, max_new_tokens=5):
            served.update(chunk.route)
    (other,) = [node for node in new_swarm.nodes if node not in refused]
    assert served == {other.address}
    await new_swarm.is_free()


async def test_a_full_node_is_asked_for_little(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusing costs what those could have whom it serves: who it is is asked once each time, and nothing given back."""
    node, refusals, calls = await new_swarm.start(target, range(LAYERS)), 5, Counter[str]()
    reserve, describe, close = node.engine.reserve, Swarm._stage, lane_link._close

    async def reserve_in_the_end(slots: int) -> Any:
        calls["open"] += 1
        if calls["open"] <= refusals:
            raise OutOfCapacity("no memory left", retry_after=0.01)
        return await reserve(slots)

    async def counted_describe(*given: Any) -> Any:
        calls["describe"] += 1
        return await describe(*given)

    async def counted_close(stages: Any, session_id: bytes) -> None:
        calls["close"] += len(stages)
        await close(stages, session_id)

    node.engine.reserve = reserve_in_the_end  # type: ignore[method-assign]
    monkeypatch.setattr(Swarm, "_stage", counted_describe)
    monkeypatch.setattr(lane_link, "_close", counted_close)
    async with Client(new_swarm.addresses, str(target), "none", audit=None) as client:
        assert len((await client.generate(PROMPT, max_new_tokens=5)).token_ids) == 5
    assert calls == {"open": refusals + 1, "describe": refusals + 1, "close": 1}


async def test_who_gives_up_while_a_session_opens_leaves_nothing_behind(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    reserve, asked, go_on = node.engine.reserve, asyncio.Event(), asyncio.Event()

    async def reserve_slowly(slots: int) -> Any:
        asked.set()
        await go_on.wait()
        return await reserve(slots)

    node.engine.reserve = reserve_slowly  # type: ignore[method-assign]
    async with Client(new_swarm.addresses, str(target), "none") as client:
        asking = asyncio.create_task(client.generate(PROMPT, max_new_tokens=5))
        await asked.wait()
        asking.cancel()
        await asyncio.wait([asking])
        go_on.set()
        await new_swarm.is_free()
        await eventually(lambda: not node.service._openings._awaited)
        assert len((await client.generate(PROMPT, max_new_tokens=5)).token_ids) == 5


async def test_a_session_whose_rule_cannot_be_found_gives_lane_and_drafter_back(
    two_stages: InProcessSwarm, target: TinyModel
) -> None:
    closed: list[str] = []

    class Drafter:
        name = "ours"
        is_local = True

        async def opened(self) -> None:
            pass

        async def propose(self, *_: Any, **__: Any) -> Any:
            raise UsageError("nothing comes to mind")

        async def close(self) -> None:
            closed.append(self.name)

    class Source:
        async def open(self, *_: Any) -> Drafter:
            return Drafter()

    async with Client(two_stages.addresses, str(target), Source()) as client:
        with pytest.raises(UsageError, match="comes to mind"):
            await client.generate([5, 6], max_new_tokens=3, acceptance="adaptive")
    assert closed == ["ours"]
    await two_stages.is_free()


async def test_an_answer_that_is_left_after_its_client_was_closed_ends_quietly(
    two_stages: InProcessSwarm, target: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(two_stages.addresses, str(target), "none") as client:
        answer = client.stream(PROMPT, max_new_tokens=20)
        await anext(answer)
    await answer.aclose()
    await two_stages.is_free()
    gc.collect()  # A task whose failure nobody heard says so when it goes.
    assert not caplog.records
