"""Which chain a conversation takes, over links that have a length."""

from contextlib import AsyncExitStack

from benchmarks.links import Link
from dsd_client import Client
from dsd_core.decoding.round_trips import REMEMBERED
from dsd_core.network.address import Address
from tests.conftest import InProcessSwarm, TinyModel

FAR = 0.05
"""Seconds one way."""


async def behind_links(stack: AsyncExitStack, swarm: InProcessSwarm) -> list[Link]:
    """A link in front of each node."""
    return [await stack.enter_async_context(Link(Address.parse(address))) for address in swarm.addresses]


async def route(client: Client, prompt: list[int]) -> list[str]:
    taken = [chunk.route async for chunk in client.stream(prompt, max_new_tokens=2)]
    assert len(set(taken)) == 1
    return list(taken[0])


async def test_the_near_chain_is_taken(target: TinyModel, new_swarm: InProcessSwarm, prompt: list[int]) -> None:
    """Of two for each half, whichever is named first."""
    for layers in (range(2), range(2), range(2, 4), range(2, 4)):
        await new_swarm.start(target, layers)
    async with AsyncExitStack() as stack:
        links = await behind_links(stack, new_swarm)
        addresses = [str(link.address) for link in links]
        links[0].delay = links[3].delay = FAR
        client = await stack.enter_async_context(Client(addresses, str(target), "none"))
        assert await route(client, prompt) == [addresses[1], addresses[2]]


async def test_new_conversations_follow_links_that_drift(
    target: TinyModel, new_swarm: InProcessSwarm, prompt: list[int]
) -> None:
    for _ in range(2):
        await new_swarm.start(target, range(4))
    async with AsyncExitStack() as stack:
        one, other = await behind_links(stack, new_swarm)
        other.delay = FAR
        client = await stack.enter_async_context(Client([str(one.address), str(other.address)], str(target), "none"))
        assert await route(client, prompt) == [str(one.address)]
        one.delay, other.delay = FAR, 0.0
        routes = [await route(client, prompt) for _ in range(REMEMBERED)]
        assert routes[-1] == [str(other.address)]
