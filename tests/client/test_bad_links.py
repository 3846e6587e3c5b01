"""Links that stall, corrupt and break in the middle of an answer. Every hop of the lane goes over one.

Whatever a link does, what was committed is what the target says.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.links import Link, Way
from dsd_client import Client, lane_source
from dsd_client.lane_source import LaneSource
from dsd_client.swarm import Swarm
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.errors import DsdError, NoPeers
from dsd_core.network.address import Address
from dsd_core.network.seeds import Seeds
from dsd_core.network.transport import Secure
from dsd_node import service
from tests.conftest import LAYERS, InProcessSwarm, TinyModel, eventually

TOKENS = 40


@pytest_asyncio.fixture(loop_scope="session")
async def links(two_stages: InProcessSwarm) -> AsyncIterator[list[Link]]:
    async with AsyncExitStack() as stack:
        targets = [Address.parse(address) for address in two_stages.addresses]
        yield [await stack.enter_async_context(Link(target)) for target in targets]


@pytest_asyncio.fixture(loop_scope="session")
async def client(links: list[Link], target: TinyModel, drafter: TinyModel) -> AsyncIterator[Client]:
    async with Client([str(link.address) for link in links], str(target), str(drafter)) as client:
        yield client


async def disturbed(client: Client, prompt: Sequence[int], disturb: Callable[[], None]) -> tuple[list[int], DsdError | None]:
    """The tokens of an answer that is disturbed after its first chunk, and how it failed if it did."""
    token_ids: list[int] = []
    failure: DsdError | None = None
    hits = 0
    try:
        async with aclosing(client.stream(prompt, max_new_tokens=TOKENS)) as chunks:
            async for chunk in chunks:
                token_ids += chunk.token_ids
                if not hits:
                    disturb()
                    hits += 1
    except DsdError as error:
        failure = error
    assert hits == 1, "nothing was disturbed"
    assert failure is None or list(failure.token_ids) == token_ids
    return token_ids, failure


@pytest.mark.parametrize("index", [0, 1])
async def test_an_answer_outlives_a_stall(
    client: Client, links: list[Link], two_stages: InProcessSwarm, target: TinyModel, prompt: list[int], index: int
) -> None:
    """Nothing moves for a while; the text is the same."""
    link, loop = links[index], asyncio.get_running_loop()

    def stall() -> None:
        link.stall()
        loop.call_later(0.5, link.resume)

    token_ids, error = await disturbed(client, prompt, stall)
    assert error is None
    target.greedy(prompt, TOKENS).assert_same(token_ids)


@pytest.mark.parametrize("trouble", [Link.reset, Link.corrupt], ids=["reset", "corrupt"])
@pytest.mark.parametrize("index", [0, 1])
async def test_a_broken_link_costs_no_token_its_truth(
    client: Client,
    links: list[Link],
    two_stages: InProcessSwarm,
    target: TinyModel,
    prompt: list[int],
    trouble: Callable[[Link], None],
    index: int,
) -> None:
    """The answer goes on elsewhere, or it fails with the text so far; and the nodes get their memory back."""
    token_ids, error = await disturbed(client, prompt, lambda: trouble(links[index]))
    assert token_ids == target.greedy(prompt, TOKENS).token_ids[: len(token_ids)]
    assert error is not None or len(token_ids) == TOKENS
    await eventually(lambda: two_stages.sessions == 0)
    again = await client.generate(prompt, max_new_tokens=8)
    assert again.token_ids == target.greedy(prompt, 8).token_ids


@pytest.mark.parametrize("speculation", ["off", "streaming"])
async def test_a_session_is_opened_again_whose_connection_breaks_meanwhile(
    new_swarm: InProcessSwarm, target: TinyModel, drafter: TinyModel, prompt: list[int], speculation: str
) -> None:
    """There is no other chain, and nobody is down."""
    node = await new_swarm.start(target, range(LAYERS))
    reserve, breaks = node.engine.reserve, 3

    async def break_and_reserve(slots: int) -> Any:
        nonlocal breaks
        if breaks:
            breaks -= 1
            link.reset()
        return await reserve(slots)

    node.engine.reserve = break_and_reserve  # type: ignore[method-assign]
    async with (
        Link(Address.parse(node.address)) as link,
        Client([str(link.address)], str(target), str(drafter)) as client,
    ):
        result = await client.generate(prompt, max_new_tokens=TOKENS, speculation=speculation)
        target.greedy(prompt, TOKENS).assert_same(result.token_ids)
    assert not breaks
    await new_swarm.is_free()


async def test_a_session_is_closed_though_the_connection_breaks_that_is_asked(
    new_swarm: InProcessSwarm, target: TinyModel
) -> None:
    """No stream of frames has begun whose end would close it."""
    node = await new_swarm.start(target, range(LAYERS))

    def break_and_resume() -> None:
        link.reset()
        link.resume()

    async with Link(Address.parse(node.address)) as link:
        swarm = Swarm(Seeds.parse([str(link.address)]), Secure.kept_in(None))
        lane = await LaneSource(swarm, target.source.shape, ChoiceRule(SamplingParams()), 16).open()
        assert node.sessions == 1
        link.black_hole(Way.THERE)
        asyncio.get_running_loop().call_later(0.1, break_and_resume)
        await lane.close()
        assert node.sessions == 0
        await swarm.close()


async def test_a_session_that_breaks_whenever_it_is_opened_is_given_up(
    new_swarm: InProcessSwarm, target: TinyModel, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_source, "BROKEN_SECONDS", 0.5)
    node = await new_swarm.start(target, range(LAYERS))
    reserve = node.engine.reserve

    async def break_and_reserve(slots: int) -> Any:
        link.reset()
        return await reserve(slots)

    node.engine.reserve = break_and_reserve  # type: ignore[method-assign]
    async with Link(Address.parse(node.address)) as link, Client([str(link.address)], str(target), "none") as client:
        with pytest.raises(NoPeers, match="went away"):
            await client.generate(prompt, max_new_tokens=TOKENS)
    await new_swarm.is_free()


async def test_who_has_answered_before_is_asked_again_if_its_connection_breaks(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    breaks = 0

    def versions_once_it_broke(*versions: int) -> Any:
        nonlocal breaks
        if breaks:
            breaks -= 1
            link.reset()
        return versions_from_wire(*versions)

    versions_from_wire = service.versions_from_wire
    monkeypatch.setattr(service, "versions_from_wire", versions_once_it_broke)
    async with Link(Address.parse(node.address)) as link:
        swarm = Swarm(Seeds.parse([str(link.address)]), Secure.kept_in(None))
        (stage,) = await swarm.chain(target.source.shape)
        swarm.choose_anew()
        breaks = 1
        assert [again.peer for again in await swarm.chain(target.source.shape)] == [stage.peer]
        assert not breaks
        link.cut()
        swarm.choose_anew()
        with pytest.raises(NoPeers):
            await swarm.chain(target.source.shape)
        await swarm.close()
