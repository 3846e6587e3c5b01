"""R1, R2 and R8 of the promises: answers of 128 tokens while nodes are killed, frozen and shut down."""

import asyncio
import os
import random
import signal
import statistics
from collections.abc import Awaitable, Callable

import pytest

from dsd_client import Client
from dsd_client.local_swarm import LocalNode
from tests.conftest import TinyModel
from tests.faulty_swarm import PROMPT, FaultySwarm, Reader

TOKENS = 128
ANSWERS = 100
READERS = 4
KILL_EVERY_SECONDS = 5.0
FAULTS = 20


@pytest.mark.parametrize("standby", [0, 1])
async def test_every_answer_outlives_its_nodes(target: TinyModel, standby: int) -> None:
    """R1: a serving node is killed every five seconds and started again."""
    reference = target.greedy(PROMPT, TOKENS)
    async with FaultySwarm(str(target)) as swarm, Client(swarm.joins, str(target), "none", timeout=120) as client:
        readers = [Reader(client, pace_seconds=0.04) for _ in range(READERS)]
        reroutes: list[int] = []
        hits = 0

        async def ask(reader: Reader) -> None:
            for _ in range(ANSWERS // READERS):
                watched = await reader.read(TOKENS, speculation="off", standby=standby)
                reference.assert_same(watched.result.token_ids)
                reroutes.append(watched.result.stats.reroutes)

        async def kill() -> None:
            nonlocal hits
            chance = random.Random(standby)
            while True:
                await asyncio.sleep(KILL_EVERY_SECONDS)
                routes = [reader.route for reader in readers if reader.route]
                if not routes:
                    continue
                dying = chance.choice(swarm.serving(chance.choice(routes)))
                hits += sum(dying.address in route for route in routes)
                await swarm.kill(dying)
                await swarm.restart(dying)

        killing = asyncio.create_task(kill())
        await asyncio.gather(*map(ask, readers))
        killing.cancel()
        await asyncio.wait([killing])
        print(f"{len(reroutes)} answers, {hits} sessions hit, {sum(reroutes)} reroutes")
        assert len(reroutes) == ANSWERS
        assert hits >= ANSWERS // 4
        assert sum(reroutes) >= hits // 2


async def freeze(swarm: FaultySwarm, node: LocalNode) -> None:
    os.kill(node.pid, signal.SIGSTOP)


async def end(swarm: FaultySwarm, node: LocalNode) -> None:
    await swarm.kill(node)


@pytest.mark.parametrize("standby", [0, 1])
@pytest.mark.parametrize(("fault", "promised_seconds"), [(end, 1.0), (freeze, 7.0)], ids=["kill", "freeze"])
async def test_a_failure_is_noticed(
    target: TinyModel,
    fault: Callable[[FaultySwarm, LocalNode], Awaitable[None]],
    promised_seconds: float,
    standby: int,
) -> None:
    """R2: how long a reader waits."""
    reference = target.greedy(PROMPT, TOKENS)
    stalls: list[float] = []
    async with FaultySwarm(str(target)) as swarm, Client(swarm.joins, str(target), "none", timeout=120) as client:
        for number in range(FAULTS):
            reader, hit = Reader(client, pace_seconds=0.01), list[LocalNode]()

            async def happen(reader: Reader = reader, hit: list[LocalNode] = hit, position: int = number % 2) -> None:
                hit.append(swarm.serving(reader.route)[position])
                await fault(swarm, hit[0])

            watched = await reader.read(TOKENS, fault=happen, at_chunk=64, speculation="off", standby=standby)
            reference.assert_same(watched.result.token_ids)
            assert watched.result.stats.reroutes >= 1
            stalls.append(watched.stall_seconds)
            if hit[0].process.returncode is None:
                os.kill(hit[0].pid, signal.SIGCONT)
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
            for node in list(swarm.nodes):
                await asyncio.sleep(2.0)
                os.kill(node.pid, signal.SIGTERM)
                async with asyncio.timeout(30):
                    assert await node.process.wait() == 0
                await swarm.restart(node)
            done.set()

        await asyncio.gather(roll(), *map(ask, readers))
        print(f"{len(reroutes)} answers, {sum(reroutes)} handed over")
        assert sum(reroutes) >= len(swarm.nodes)
