"""R1, R2 and R8 of the promises: answers of 128 tokens while nodes are killed, frozen, blocked, cut off and shut down."""

import asyncio
import os
import random
import signal
import statistics
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.links import Way
from dsd_client import Client
from dsd_client.local_swarm import LocalNode
from dsd_core.decoding.round_clock import SHORTEST_PATIENCE_SECONDS
from tests import blockable_node
from tests.conftest import TinyModel
from tests.faulty_swarm import PROMPT, FaultySwarm, LinkedFaultySwarm, Reader

TOKENS = 128
ANSWERS = 100
READERS = 4
KILLS = 100
KILL_EVERY_SECONDS = 5.0
PACE_SECONDS = 0.17
"""Of a reader's chunks, so that a hundred answers take about as long as a hundred kills."""
FAULTS = 20
QUICK_SECONDS, SLOW_SECONDS = 0.01, 0.12
"""Of a reader's chunks after a fault. A first stage that is mute still passes frames on: nobody need notice until a ping has
no answer, six seconds later, and the answer must last so long."""
BLOCKED_SECONDS = SHORTEST_PATIENCE_SECONDS + 1.0
"""A round's deadline where rounds are short, and a second."""


async def test_every_answer_outlives_its_nodes(target: TinyModel) -> None:
    """R1: a node that serves is killed every five seconds, and started again. Half of the readers have a lane in reserve."""
    reference = target.greedy(PROMPT, TOKENS)
    async with FaultySwarm(str(target)) as swarm, Client(swarm.joins, str(target), "none", timeout=120) as client:
        readers = [Reader(client, PACE_SECONDS) for _ in range(READERS)]
        reroutes: list[int] = []
        hits: list[int] = []
        chance = random.Random(1)

        async def ask(reader: Reader, standby: int) -> None:
            while len(reroutes) < ANSWERS or len(hits) < KILLS:
                watched = await reader.read(TOKENS, speculation="off", standby=standby)
                reference.assert_same(watched.result.token_ids)
                reroutes.append(watched.result.stats.reroutes)

        async def kill_one() -> None:
            serving = [node for reader in readers for node in swarm.serving(reader.route) if swarm.can_be_spared(node)]
            if serving:
                dying = chance.choice(serving)
                hits.append(sum(dying.address in reader.route for reader in readers))
                await swarm.kill(dying)
                await swarm.restart(dying)

        async def kill() -> None:
            async with asyncio.TaskGroup() as killings:
                while True:
                    await asyncio.sleep(KILL_EVERY_SECONDS)
                    killings.create_task(kill_one())

        killing = asyncio.create_task(kill())
        await asyncio.gather(*(ask(reader, number % 2) for number, reader in enumerate(readers)))
        killing.cancel()
        await asyncio.wait([killing])
        assert killing.cancelled()
        print(f"{len(reroutes)} answers, {len(hits)} kills that hit {sum(hits)} sessions, {sum(reroutes)} reroutes")
        # A session may end, or lose a second node, before it has moved.
        assert sum(reroutes) >= KILLS


Fault = Callable[[LinkedFaultySwarm, LocalNode], Awaitable[None]]


async def end(swarm: LinkedFaultySwarm, node: LocalNode) -> None:
    await swarm.kill(node)


async def freeze(swarm: LinkedFaultySwarm, node: LocalNode) -> None:
    os.kill(node.pid, signal.SIGSTOP)


async def block(swarm: LinkedFaultySwarm, node: LocalNode) -> None:
    os.kill(node.pid, blockable_node.BLOCK)


async def cut_off(swarm: LinkedFaultySwarm, node: LocalNode) -> None:
    swarm.link_of(node).black_hole()


async def deafen(swarm: LinkedFaultySwarm, node: LocalNode) -> None:
    swarm.link_of(node).black_hole(Way.THERE)


async def mute(swarm: LinkedFaultySwarm, node: LocalNode) -> None:
    swarm.link_of(node).black_hole(Way.BACK)


@pytest.mark.parametrize(
    ("fault", "promised_seconds", "pace_seconds"),
    [
        (end, 1.0, QUICK_SECONDS),
        (freeze, 7.0, QUICK_SECONDS),
        (block, BLOCKED_SECONDS, QUICK_SECONDS),
        (cut_off, 7.0, QUICK_SECONDS),
        (deafen, 7.0, QUICK_SECONDS),
        (mute, 7.0, SLOW_SECONDS),
    ],
)
async def test_a_failure_is_noticed(
    target: TinyModel, fault: Fault, promised_seconds: float, pace_seconds: float
) -> None:
    """R2: how long a reader waits. First and last stages are hit in turn; half of the answers have a lane that stands by."""
    reference = target.greedy(PROMPT, TOKENS)
    stalls: list[float] = []
    async with LinkedFaultySwarm(str(target)) as swarm, Client(swarm.joins, str(target), "none", timeout=120) as client:
        for number in range(FAULTS):
            reader, hit = Reader(client, QUICK_SECONDS), list[LocalNode]()

            async def happen(reader: Reader = reader, hit: list[LocalNode] = hit, position: int = number % 2) -> None:
                hit.append(swarm.serving(reader.route)[position])
                await fault(swarm, hit[0])
                reader.pace_seconds = pace_seconds

            standby = number // 2 % 2
            watched = await reader.read(TOKENS, fault=happen, at_chunk=64, speculation="off", standby=standby)
            reference.assert_same(watched.result.token_ids)
            assert watched.result.stats.reroutes >= 1
            stalls.append(watched.stall_seconds)
            if swarm.is_up(hit[0]):
                os.kill(hit[0].pid, blockable_node.UNBLOCK)
                swarm.heal(hit[0])
            else:
                await swarm.restart(hit[0])
    late = statistics.quantiles(stalls, n=20)[-1]
    print(f"stalls of {len(stalls)}: median {statistics.median(stalls):.2f} s, 95th percentile {late:.2f} s")
    assert late <= promised_seconds


async def test_a_rolling_restart_is_invisible(target: TinyModel) -> None:
    """R8: every node in turn is told to stop, under load, and started again."""
    reference = target.greedy(PROMPT, TOKENS)
    async with FaultySwarm(str(target)) as swarm, Client(swarm.joins, str(target), "none", timeout=120) as client:
        readers = [Reader(client, pace_seconds=0.04) for _ in range(READERS)]
        done, reroutes = asyncio.Event(), list[int]()

        async def ask(reader: Reader) -> None:
            while not done.is_set():
                watched = await reader.read(TOKENS, speculation="off")
                reference.assert_same(watched.result.token_ids)
                reroutes.append(watched.result.stats.reroutes)

        async def roll() -> None:
            while len(reroutes) < ANSWERS:
                for node in list(swarm.nodes):
                    await asyncio.sleep(2.0)
                    os.kill(node.pid, signal.SIGTERM)
                    async with asyncio.timeout(30):
                        assert await node.process.wait() == 0
                    await swarm.restart(node)
            done.set()

        await asyncio.gather(roll(), *map(ask, readers))
        print(f"{len(reroutes)} answers, {sum(reroutes)} handed over")
        assert len(reroutes) >= ANSWERS
        assert sum(reroutes) >= len(swarm.nodes)
