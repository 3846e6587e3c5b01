"""R5, R6 and P1 of the promises: ways that are cut off and heal, that are slow and break, and that are listened to."""

import asyncio
import random
import time
from collections import defaultdict
from contextlib import AsyncExitStack

import pytest

from benchmarks.links import Link, Way
from dsd_client import Client
from dsd_client.local_swarm import LocalNode, LocalSwarm
from dsd_core.network.address import Address
from dsd_core.wire.v1 import stage_pb2
from tests.conftest import TinyModel
from tests.faulty_swarm import PROMPT, LinkedFaultySwarm, Reader
from tests.scale import count

PARTITIONS = count(4, 4, 20)
PARTITION_SECONDS = 30.0
BACK_SECONDS = 10.0

ANSWERS = 50
READERS = 10
TOKENS = 64
ONE_WAY_SECONDS, JITTER_SECONDS = 0.1, 0.025
STALL_SECONDS, STALL_SHARE = 1.0, 0.01
RESET_EVERY_SECONDS = 3.0

CANARY = [301, 17, 302, 201, 300, 199, 303, 77]
SERVER_CHOSE_TLS_1_3 = bytes.fromhex("002b00020304")
"""The extension of a server's hello that says so."""


async def test_a_partition_heals(target: TinyModel) -> None:
    """R5: a node is cut off for half a minute. Ten seconds after it can be reached again, answers go by way of it."""
    reference = target.greedy(PROMPT, TOKENS)
    async with LinkedFaultySwarm(str(target)) as swarm, Client(swarm.joins, str(target), "none", timeout=60) as client:
        for number in range(PARTITIONS):
            reader, hit = Reader(client, pace_seconds=0.01), list[LocalNode]()

            async def cut_off(reader: Reader = reader, hit: list[LocalNode] = hit, position: int = number % 2) -> None:
                hit.append(swarm.serving(reader.route)[position])
                swarm.link_of(hit[0]).black_hole()

            watched = await reader.read(TOKENS, fault=cut_off, at_chunk=16, speculation="off")
            reference.assert_same(watched.result.token_ids)
            assert watched.result.stats.reroutes >= 1
            await asyncio.sleep(PARTITION_SECONDS)
            [stand_in] = [node for node in swarm.nodes if node.layers == hit[0].layers and node is not hit[0]]
            await swarm.kill(stand_in)
            swarm.heal(hit[0])
            seconds = await _seconds_until_answered_by(client, hit[0])
            print(f"back after {seconds:.1f} s")
            assert seconds <= BACK_SECONDS
            await swarm.restart(stand_in)


async def _seconds_until_answered_by(client: Client, node: LocalNode) -> float:
    since = time.monotonic()
    route: tuple[str, ...] = ()
    async for chunk in client.stream(PROMPT, max_new_tokens=1):
        route = chunk.route
    assert node.address in route, "nobody else can have answered"
    return time.monotonic() - since


class BadLink(Link):
    """Slow, unsteady, and now and then it holds everything back for a while."""

    chance = random.Random(6)
    stalls = 0

    def delay_of_chunk(self) -> float:
        stalls = self.chance.random() < STALL_SHARE
        self.stalls += stalls
        return ONE_WAY_SECONDS + self.chance.uniform(-JITTER_SECONDS, JITTER_SECONDS) + STALL_SECONDS * stalls


@pytest.mark.parametrize("speculation", ["off", "streaming"])
async def test_bad_networks_only_slow_it(target: TinyModel, speculation: str) -> None:
    """R6: round trips of 200 ms with 50 ms of jitter, stalls of a second, and connections that are reset."""
    reference = target.greedy(PROMPT, TOKENS)
    async with (
        LinkedFaultySwarm(str(target), BadLink) as swarm,
        Client(swarm.joins, str(target), "ngram", timeout=120) as client,
    ):
        hits, reroutes = 0, list[int]()
        readers = [Reader(client) for _ in range(READERS)]

        async def ask(reader: Reader) -> None:
            for _ in range(ANSWERS // READERS):
                watched = await reader.read(TOKENS, speculation=speculation)
                reference.assert_same(watched.result.token_ids)
                reroutes.append(watched.result.stats.reroutes)

        async def reset() -> None:
            nonlocal hits
            while True:
                await asyncio.sleep(RESET_EVERY_SECONDS)
                link = BadLink.chance.choice(swarm.links)
                hits += sum(str(link.address) in reader.route for reader in readers)
                link.reset()

        resetting = asyncio.create_task(reset())
        await asyncio.gather(*map(ask, readers))
        resetting.cancel()
        stalls = sum(link.stalls for link in swarm.links if isinstance(link, BadLink))
        print(f"{len(reroutes)} answers, {stalls} stalls, {hits} sessions reset, {sum(reroutes)} reroutes")
        assert len(reroutes) == ANSWERS
        assert hits
        assert stalls


class Tap(Link):
    """Keeps what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[Way, bytearray] = defaultdict(bytearray)

    def on_the_way(self, data: bytes, way: Way) -> bytes:
        self.heard[way] += data
        return super().on_the_way(data, way)


@pytest.mark.parametrize("in_the_clear", [False, True])
async def test_the_wire_shows_nothing(target: TinyModel, in_the_clear: bool) -> None:
    """P1: neither prompt nor answer, and every connection is TLS 1.3. Without TLS the same ear hears both."""
    async with AsyncExitStack() as stack:
        taps = [await stack.enter_async_context(Tap()) for _ in range(2)]
        options = []
        for tap in taps:
            tap.target = Address("127.0.0.2", tap.address.port)
            options.append(["--listen", str(tap.target), "--announce", str(tap.address)])
            options[-1] += ["--insecure-loopback"] * in_the_clear
        swarm = await stack.enter_async_context(LocalSwarm(str(target), ["0:2", "2:4"], threads=1, options=options))
        joins = swarm.addresses if in_the_clear else swarm.joins
        async with Client(joins, str(target), "none", insecure_loopback=in_the_clear) as client:
            result = await client.generate(CANARY, max_new_tokens=16)
            assert len(result.token_ids) == 16
    prompt = stage_pb2.Frame(tokens=CANARY).SerializeToString()
    for tap in taps:
        # The first stage is sent the prompt, and sends it on; each says what it calls the model.
        assert (prompt in tap.heard[Way.THERE]) == in_the_clear
        assert (target.directory.name.encode() in tap.heard[Way.BACK]) == in_the_clear
        hellos = tap.heard[Way.BACK].count(SERVER_CHOSE_TLS_1_3)
        assert hellos == (0 if in_the_clear else tap.dialled)
        assert tap.dialled
