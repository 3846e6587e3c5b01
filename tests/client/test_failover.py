"""Stages that die, freeze or are shut down in the middle of an answer: the text is that of an undisturbed one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from dsd_client import Client, Result, conversation
from dsd_client.answer import AnswerStream
from dsd_client.lane_source import LaneSource
from dsd_core.errors import NoPeers, OutOfCapacity, PeerLost, PromptTooLong, Refused
from dsd_node import quotas
from dsd_node.quotas import Limits
from tests.conftest import LAYERS, InProcessNode, InProcessSwarm, TinyModel, eventually

PROMPT = [5, 6, 7, 40, 41]
TOKENS = 80

Disturb = Callable[[AnswerStream], Awaitable[None]]


@pytest_asyncio.fixture(loop_scope="session")
async def replicas(target: TinyModel) -> AsyncIterator[InProcessSwarm]:
    """Two chains of two stages."""
    swarm = InProcessSwarm()
    for _ in range(2):
        await swarm.start(target, range(2))
        await swarm.start(target, range(2, LAYERS))
    yield swarm
    await swarm.stop()


def serving(swarm: InProcessSwarm, route: tuple[str, ...]) -> list[InProcessNode]:
    """The nodes of a route, in its order."""
    return [next(node for node in swarm.nodes if node.address == address) for address in route]


def slow_down(node: InProcessNode, seconds: float) -> None:
    """A frame takes so long at least."""
    compute = node.engine.compute

    async def computed(*given: Any) -> Any:
        await asyncio.sleep(seconds)
        return await compute(*given)

    node.engine.compute = computed  # type: ignore[method-assign]


async def disturbed(client: Client, disturb: Disturb, *, at_chunks: tuple[int, ...] = (8,), **options: Any) -> Result:
    """An answer in the middle of which something happens."""
    async with client.conversation(positions=len(PROMPT) + TOKENS, **options) as answers:
        chunks = 0
        async for _ in answers.ask(PROMPT, max_new_tokens=TOKENS):
            chunks += 1
            if chunks in at_chunks:
                await disturb(answers)
        assert chunks >= max(at_chunks)
        return answers.result


# -- stages that die ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standby", [0, 1])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("speculation", ["off", "blocking", "streaming"])
async def test_a_stage_that_dies_is_done_without(
    replicas: InProcessSwarm, target: TinyModel, drafter: TinyModel, position: int, standby: int, speculation: str
) -> None:
    async with Client(replicas.addresses, str(target), str(drafter), timeout=10) as client:

        async def kill(answers: AnswerStream) -> None:
            await serving(replicas, answers._conversation.route)[position].kill()

        result = await disturbed(client, kill, speculation=speculation, standby=standby)
        target.greedy(PROMPT, TOKENS).assert_same(result.token_ids)
        assert result.stats.reroutes == 1
        assert result.stats.new_tokens == TOKENS
    await replicas.is_free()


async def test_a_lane_that_stands_by_is_warm(replicas: InProcessSwarm, target: TinyModel) -> None:
    """It goes on where the lost one was: what it gets then is what it lacks, not the whole text."""
    long = list(range(60, 260))
    async with (
        Client(replicas.addresses, str(target), "none", timeout=10) as client,
        client.conversation(positions=400, speculation="off", standby=1) as answers,
    ):
        conversation, chunks, at_the_kill = answers._conversation, 0, 0
        async for _ in answers.ask(long, max_new_tokens=100):
            chunks += 1
            if chunks == 80:
                assert [node.sessions for node in replicas.nodes] == [1, 1, 1, 1], "a lane each"
                at_the_kill = conversation.bytes_sent
                await serving(replicas, conversation.route)[0].kill()
        target.greedy(long, 100).assert_same(answers.result.token_ids)
        assert answers.result.stats.reroutes == 1
        assert conversation.bytes_sent - at_the_kill < 1500, "the prompt's two hundred tokens take more"
    await replicas.is_free()


async def test_one_chain_after_another(replicas: InProcessSwarm, target: TinyModel) -> None:
    """Stages die until there are just enough; then one more."""
    reference = target.greedy(PROMPT, TOKENS)
    async with Client(replicas.addresses, str(target), "none", timeout=0.5) as client:

        async def kill(answers: AnswerStream) -> None:
            ends = [node for node in replicas.nodes if not node.stopped]
            dying = serving(replicas, answers._conversation.route)[1 if len(ends) == 4 else 0]
            await dying.kill()

        with pytest.raises(NoPeers) as caught:
            await disturbed(client, kill, at_chunks=(8, 16, 24), speculation="off")
        assert len(caught.value.token_ids) >= 24
        assert list(caught.value.token_ids) == reference.token_ids[: len(caught.value.token_ids)]
        assert caught.value.text
    await replicas.is_free()


async def test_a_chain_that_comes_back_is_used_again(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one chain only, the client waits until it can be had again."""
    node = await new_swarm.start(target, range(LAYERS))
    async with Client(new_swarm.addresses, str(target), "none", timeout=10) as client:

        async def refuse_for_a_while(answers: AnswerStream) -> None:
            async def refuse(slots: int) -> Any:
                raise OutOfCapacity("no memory left")

            with monkeypatch.context() as patch:
                patch.setattr(node.engine, "reserve", refuse)
                await node.service.close()
                await asyncio.sleep(0.3)

        result = await disturbed(client, refuse_for_a_while, speculation="off")
        target.greedy(PROMPT, TOKENS).assert_same(result.token_ids)
        assert result.stats.reroutes == 1
    await new_swarm.is_free()


# -- stages that freeze ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("position", "standby"), [(0, 0), (1, 1)])
async def test_a_stage_that_freezes_is_done_without(
    replicas: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch, position: int, standby: int
) -> None:
    async with Client(replicas.addresses, str(target), "none", timeout=10) as client:

        async def freeze(answers: AnswerStream) -> None:
            frozen = serving(replicas, answers._conversation.route)[position]

            async def for_ever(*_: object) -> Any:
                await asyncio.sleep(3600)

            monkeypatch.setattr(frozen.engine, "compute", for_ever)

        result = await disturbed(client, freeze, speculation="off", standby=standby)
        target.greedy(PROMPT, TOKENS).assert_same(result.token_ids)
        assert result.stats.reroutes == 1
        assert result.stats.seconds < 10, "a round of a quick lane may take two seconds"
    await replicas.is_free()


# -- stages that are shut down -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("position", "speculation"), [(0, "blocking"), (1, "streaming")])
async def test_a_stage_that_is_shut_down_hands_its_sessions_over(
    replicas: InProcessSwarm, target: TinyModel, drafter: TinyModel, position: int, speculation: str
) -> None:
    drained: list[asyncio.Task[None]] = []
    async with Client(replicas.addresses, str(target), str(drafter), timeout=10) as client:

        async def drain(answers: AnswerStream) -> None:
            leaving = serving(replicas, answers._conversation.route)[position]
            drained.append(asyncio.create_task(leaving.service.drain()))

        result = await disturbed(client, drain, speculation=speculation, lookahead=2)
        target.greedy(PROMPT, TOKENS).assert_same(result.token_ids)
        assert result.stats.reroutes == 1
        async with asyncio.timeout(4):
            await drained[0]
        again = await client.generate(PROMPT, max_new_tokens=5)
        target.greedy(PROMPT, 5).assert_same(again.token_ids)
    await replicas.is_free()


async def test_a_node_that_is_being_shut_down_takes_no_more_sessions(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    async with Client(new_swarm.addresses, str(target), "none") as client:
        await node.service.drain()
        with pytest.raises(Refused, match="is being shut down; join another"):
            await client.generate(PROMPT, max_new_tokens=5)


async def test_a_drain_ends_when_the_last_session_has_gone(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    async with Client(new_swarm.addresses, str(target), "none") as client:
        async with client.conversation(positions=100, speculation="off") as answers:
            draining = asyncio.create_task(node.service.drain())
            async for _ in answers.ask(PROMPT, max_new_tokens=40):
                assert not draining.done()
            target.greedy(PROMPT, 40).assert_same(answers.result.token_ids)
        await eventually(draining.done)


# -- several lanes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "had"), [(2, 2), (5, 2)])
async def test_as_many_lanes_as_there_are(replicas: InProcessSwarm, target: TinyModel, asked: int, had: int) -> None:
    async with Client(replicas.addresses, str(target), "none", timeout=10) as client:
        result = await client.generate(PROMPT, max_new_tokens=100, speculation="off", lanes=asked)
        target.greedy(PROMPT, 100).assert_same(result.token_ids)
        assert result.stats.lanes == had
        assert result.stats.reroutes == 0
    await replicas.is_free()


async def test_the_only_lane_of_several_that_were_asked_for_is_replaced_as_if_one_had_been(
    new_swarm: InProcessSwarm, target: TinyModel
) -> None:
    """By a chain that shares a stage with it: a second lane would be of no use so, a replacement is."""
    for layers in (range(2), range(2), range(2, LAYERS)):
        await new_swarm.start(target, layers)
    drained: list[asyncio.Task[None]] = []
    async with Client(new_swarm.addresses, str(target), "none", timeout=10) as client:

        async def drain(answers: AnswerStream) -> None:
            drained.append(asyncio.create_task(serving(new_swarm, answers._conversation.route)[0].service.drain()))

        async def all_gone(_: AnswerStream) -> None:
            await eventually(drained[0].done)

        async def disturb(answers: AnswerStream) -> None:
            await (all_gone if drained else drain)(answers)

        result = await disturbed(client, disturb, at_chunks=(8, 60), speculation="off", lanes=2)
        target.greedy(PROMPT, TOKENS).assert_same(result.token_ids)
        assert result.stats.reroutes == 1
    await new_swarm.is_free()


async def test_lanes_that_are_not_to_be_had_are_looked_for_while_there_is_an_answer(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(conversation, "LONGEST_RETRY_SECONDS", 0.02)
    looks = Counter[str]()
    open_lane = LaneSource.open

    async def look(source: LaneSource, *others: Any, **wishes: Any) -> Any:
        looks[when] += 1
        return await open_lane(source, *others, **wishes)

    monkeypatch.setattr(LaneSource, "open", look)
    await new_swarm.start(target, range(LAYERS))
    async with Client(new_swarm.addresses, str(target), "none", timeout=10) as client:
        when = "opening"
        async with client.conversation(positions=300, speculation="off", lanes=8) as answers:
            for when in ("first answer", "second answer"):
                looks.clear()
                async for _ in answers.ask(PROMPT, max_new_tokens=TOKENS):
                    await asyncio.sleep(0.002)
                target.greedy(PROMPT, TOKENS).assert_same(answers.result.token_ids)
                assert looks[when] > 2
                when = "pause"
                await asyncio.sleep(0.3)
                assert looks["pause"] <= 1
            when = "refused question"
            with pytest.raises(PromptTooLong):
                await anext(answers.ask(PROMPT * 100, max_new_tokens=TOKENS))
            await asyncio.sleep(0.3)
            assert looks["refused question"] <= 1


async def test_a_loss_ends_the_pause_of_who_looks_for_another(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only chain there is could not be had beside the lane, but can instead of it."""
    monkeypatch.setattr(conversation, "RETRY_SECONDS", 600.0)
    monkeypatch.setattr(conversation, "LONGEST_RETRY_SECONDS", 600.0)
    node = await new_swarm.start(target, range(LAYERS))

    async def reset(_: AnswerStream) -> None:
        await asyncio.sleep(0.2)  # the stand-in has been looked for
        [session] = node.service._sessions
        await node.service._close(session, PeerLost("reset"))

    async with Client(new_swarm.addresses, str(target), "none", timeout=20) as client:
        slow_down(node, seconds=0.01)
        async with asyncio.timeout(15):
            result = await disturbed(client, reset, speculation="off", standby=1)
    target.greedy(PROMPT, TOKENS).assert_same(result.token_ids)
    assert result.stats.reroutes == 1


async def test_one_search_finds_the_first_lane_though_others_are_looked_for_beside_it(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node is full, says when to come back, and is asked again; once there is a lane nothing more is awaited of it."""
    monkeypatch.setattr(quotas, "RETRY_SECONDS", 0.1)
    node = await new_swarm.start(target, range(LAYERS), Limits(kv_bytes=1 << 30, sessions=8))
    slow_down(node, seconds=0.06)
    async with Client(new_swarm.addresses, str(target), "none", timeout=4) as client:
        async with client.conversation(positions=8):
            asking = asyncio.create_task(client.generate(PROMPT, max_new_tokens=TOKENS, speculation="off", lanes=2))
            await asyncio.sleep(0.3)
            assert not asking.done()
        target.greedy(PROMPT, TOKENS).assert_same((await asking).token_ids)
