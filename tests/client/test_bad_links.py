"""Links that stall, corrupt and break in the middle of an answer. Every hop of the lane goes over one.

Whatever a link does, what was committed is what the target says.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

import pytest
import pytest_asyncio

from benchmarks.links import Link
from dsd_client import Client
from dsd_core.errors import DsdError
from dsd_core.network.address import Address
from tests.conftest import InProcessSwarm, TinyModel, eventually

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
