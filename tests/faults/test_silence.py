"""S10 of the promises: connections that say nothing, before TLS and after it."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dsd_client import Client
from dsd_client.local_swarm import LocalNode, LocalSwarm
from dsd_core.network.channels import SERVER_OPTIONS
from tests.conftest import TinyModel, eventually
from tests.faults import silent
from tests.faulty_swarm import PROMPT

CONNECTIONS = 2000
"""Of each kind."""
TOKENS = 16
LIMIT_SECONDS = dict(SERVER_OPTIONS)["grpc.server_handshake_timeout_ms"] / 1000
CLOSED_SECONDS = LIMIT_SECONDS + 1.0
DEADLINE_SECONDS = 120.0


def _open_files(node: LocalNode) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


@asynccontextmanager
async def honest_calls(client: Client, target: TinyModel) -> AsyncIterator[list[float]]:
    """One after the other as long as this lasts, each by a session of its own; how many seconds each took."""
    reference, seconds = target.greedy(PROMPT, TOKENS), list[float]()

    async def call() -> None:
        while True:
            since = time.monotonic()
            reference.assert_same((await client.generate(PROMPT, max_new_tokens=TOKENS)).token_ids)
            seconds.append(time.monotonic() - since)

    calling = asyncio.create_task(call())
    try:
        yield seconds
    finally:
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled(), "an honest call failed"


def late(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 99 // 100]


async def test_silent_connections_cost_little(target: TinyModel, tmp_path: Path) -> None:
    """Thousands that never begin TLS, beside thousands that do and then never speak HTTP/2."""
    async with LocalSwarm(str(target), ["0:4"], threads=1) as swarm, Client(swarm.joins, str(target), "none") as client:
        [node] = swarm.nodes
        async with honest_calls(client, target) as calm:
            await asyncio.sleep(2.0)
        before, most = _open_files(node), 0
        async with honest_calls(client, target) as meanwhile:
            saying_nothing = asyncio.create_task(_silent(node.address, tmp_path))
            while not saying_nothing.done():
                most = max(most, _open_files(node) - before)
                await asyncio.sleep(0.05)
        for seconds, name in zip(await saying_nothing, ("before TLS", "after TLS"), strict=True):
            print(f"{len(seconds)} silent {name}: closed after {late(seconds):.2f} s")
            assert len(seconds) == CONNECTIONS
            assert late(seconds) <= CLOSED_SECONDS
        print(f"{most} held at once; {len(meanwhile)} honest calls, {late(meanwhile):.2f} s at most, {late(calm):.2f} s before")
        assert most > CONNECTIONS // 2
        assert len(meanwhile) > 10
        await eventually(lambda: _open_files(node) <= before + 1)


async def _silent(address: str, directory: Path) -> list[list[float]]:
    """A process of its own, so that it does not slow the honest."""
    arguments = (address, str(CONNECTIONS), str(directory))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", silent.__name__, *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            said, _ = await process.communicate()
        lists: list[list[float]] = json.loads(said)
        return lists
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
