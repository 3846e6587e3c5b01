"""Which chain a conversation takes, over links that have a length."""

import itertools
from contextlib import AsyncExitStack
from unittest.mock import NonCallableMock

import grpc.aio
import pytest

from benchmarks.links import Link
from dsd_client import Client, replanned_link, swarm
from dsd_client.chain_choice import Wishes, links_of
from dsd_client.stage import Stage
from dsd_client.swarm import Swarm
from dsd_core.decoding.chains.round_trips import REMEMBERED
from dsd_core.decoding.chains.routing import chain
from dsd_core.membership.ids import handle_of
from dsd_core.membership.record import Capacity, PeerRecord
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.identity import Identity
from dsd_core.network.seeds import Seeds
from dsd_core.wire.v1 import stage_pb2
from tests.conftest import CALLER, LAYERS, InProcessSwarm, TinyModel
from tests.membership.conftest import record_of

FAR = 0.05
"""Seconds one way."""
NO_CHANNEL = NonCallableMock(grpc.aio.Channel)
QUICK = Capacity(10, 10, 0.001, 0.0)
PEERS = {name: Identity.ephemeral() for name in "abc"}

ports = itertools.count(4100)


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


async def test_a_chain_is_good_for_a_moment_unless_it_is_doubted(target: TinyModel, new_swarm: InProcessSwarm) -> None:
    for _ in range(2):
        await new_swarm.start(target, range(4))
    banned = BannedPeers(None)
    peers = Swarm(Seeds.parse(new_swarm.addresses), CALLER, banned=banned)
    model = target.source.shape
    chosen = await peers.chain(model)
    assert await peers.chain(model) is chosen
    assert await peers.chain(model, Wishes(failed=frozenset({chosen[0].address}))) != chosen
    peers.choose_anew()
    again = await peers.chain(model)
    assert again is not chosen
    banned.ban(again[0].peer, "it lied")
    assert await peers.chain(model) != again
    await peers.close()


async def test_new_conversations_follow_links_that_drift(
    target: TinyModel, new_swarm: InProcessSwarm, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await new_swarm.start(target, range(4))
    async with AsyncExitStack() as stack:
        one, other = await behind_links(stack, new_swarm)
        other.delay = FAR
        client = await stack.enter_async_context(Client([str(one.address), str(other.address)], str(target), "none"))
        assert await route(client, prompt) == [str(one.address)]
        monkeypatch.setattr(swarm, "LOOK_SECONDS", 0.0)  # else a chain is good for a moment
        one.delay, other.delay = FAR, 0.0
        routes = [await route(client, prompt) for _ in range(REMEMBERED)]
        assert routes[-1] == [str(other.address)]


async def test_a_running_conversation_moves_when_another_chain_is_clearly_sooner(
    target: TinyModel, new_swarm: InProcessSwarm, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replanned_link, "REPLAN_SECONDS", 0.05)
    for _ in range(2):
        await new_swarm.start(target, range(LAYERS))
    async with AsyncExitStack() as stack:
        one, other = await behind_links(stack, new_swarm)
        other.delay = FAR
        client = await stack.enter_async_context(Client([str(one.address), str(other.address)], str(target), "none"))
        routes, token_ids = [], []
        async for chunk in client.stream(prompt, max_new_tokens=60, speculation="off"):
            routes.append(chunk.route)
            token_ids += chunk.token_ids
            if len(routes) == 2:
                one.delay, other.delay = FAR, 0.0
    assert [route for route, _ in itertools.groupby(routes)] == [(str(one.address),), (str(other.address),)]
    target.greedy(prompt, 60).assert_same(token_ids)


def stage(layers: range, record: PeerRecord | None, round_trip: float = 0.01) -> Stage:
    said = stage_pb2.DescribeResponse(first_layer=layers.start, end_layer=layers.stop)
    address = Address("127.0.0.1", next(ports))
    return Stage(address, record.peer if record else CALLER.peer_id, NO_CHANNEL, said, round_trip, record)


def taken(*stages: Stage) -> list[Stage]:
    return list(chain({stage: stage.offer for stage in stages}, LAYERS, links_of(stages)))


def record(identity: Identity, capacity: Capacity = QUICK, **far: float) -> PeerRecord:
    return record_of(identity, capacity=capacity, round_trips={handle_of(PEERS[name].peer_id): far[name] for name in far})


def test_a_stage_that_says_that_it_is_slow_or_full_is_gone_round() -> None:
    slow = stage(range(LAYERS), record(PEERS["a"], Capacity(10, 10, 0.2, 0.05)))
    full = stage(range(LAYERS), record(PEERS["b"], Capacity(0, 10)))
    quick = stage(range(LAYERS), record(PEERS["c"]), round_trip=0.1)
    assert taken(slow, full, quick) == [quick]
    assert taken(full, slow) == [slow]


def test_links_between_stages_are_those_that_they_state() -> None:
    first = stage(range(2), record(PEERS["a"], b=0.4, c=0.002))
    far, near = stage(range(2, 4), record(PEERS["b"])), stage(range(2, 4), record(PEERS["c"]), round_trip=0.1)
    assert taken(first, far, near) == [first, near]


def test_a_stage_that_nobody_has_told_us_of_is_taken_as_it_is() -> None:
    alone = stage(range(LAYERS), None)
    assert taken(alone) == [alone]
