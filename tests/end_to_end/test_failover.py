"""Nodes killed, and told to stop, in the middle of answers. tests/faults does it many times more."""

import asyncio
import os
import signal

import pytest

from dsd_client import Client
from dsd_client.local_swarm import LocalNode
from dsd_core.errors import NoPeers
from tests.conftest import TinyModel
from tests.faulty_swarm import PROMPT, FaultySwarm, Reader

TOKENS = 80


async def told(node: LocalNode) -> int:
    """The exit code of a node that is told to stop."""
    os.kill(node.pid, signal.SIGTERM)
    async with asyncio.timeout(20):
        return await node.process.wait()


async def test_answers_outlive_their_nodes(target: TinyModel) -> None:
    """Four nodes, two for each half of the model: one is killed, one is told to stop, and one is told so twice."""
    reference = target.greedy(PROMPT, TOKENS)
    async with FaultySwarm(str(target)) as swarm:
        async with Client(swarm.joins, str(target), "none", timeout=60) as client:
            reader, stopping = Reader(client, pace_seconds=0.01), list[asyncio.Task[int]]()

            async def kill_the_first() -> None:
                await swarm.kill(swarm.serving(reader.route)[0])

            async def stop_the_last() -> None:
                stopping.append(asyncio.create_task(told(swarm.serving(reader.route)[1])))

            killed = await reader.read(TOKENS, fault=kill_the_first, at_chunk=3, standby=1)
            stopped = await reader.read(TOKENS, fault=stop_the_last, at_chunk=3, speculation="off")
            for watched in (killed, stopped):
                reference.assert_same(watched.result.token_ids)
                assert watched.result.stats.reroutes == 1
            assert await stopping[0] == 0

        async with Client(swarm.joins, str(target), "none", timeout=1) as client:
            reader = Reader(client, pace_seconds=0.01)

            async def tell_twice() -> None:
                node, following = swarm.serving(reader.route)
                os.kill(following.pid, signal.SIGSTOP)  # for the answer would be complete before the node is gone
                os.kill(node.pid, signal.SIGTERM)
                await asyncio.sleep(0.3)
                assert node.process.returncode is None, "its session could not move, and has time to"
                assert await told(node) == 0
                os.kill(following.pid, signal.SIGCONT)

            with pytest.raises(NoPeers) as caught:
                await reader.read(TOKENS, fault=tell_twice, at_chunk=2, speculation="off")
            assert len(caught.value.token_ids) >= 2
            assert list(caught.value.token_ids) == reference.token_ids[: len(caught.value.token_ids)]
