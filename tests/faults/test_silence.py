"""S10 of the promises: connections that say nothing."""

import asyncio
import os

from dsd_client import Client
from dsd_client.local_swarm import LocalNode, LocalSwarm
from dsd_core.network.address import Address
from dsd_core.network.channels import SERVER_OPTIONS
from tests.conftest import TinyModel, eventually
from tests.faulty_swarm import PROMPT

CONNECTIONS = 2000
TOKENS = 16
CLOSED_SECONDS = dict(SERVER_OPTIONS)["grpc.server_handshake_timeout_ms"] / 1000 + 1.0
SLACK_SECONDS = 5.0
"""For a test that opens and watches thousands of connections itself."""


def _open_files(node: LocalNode) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


async def test_silent_connections_cost_little(target: TinyModel) -> None:
    """Thousands of connections that never begin TLS: an honest client is served meanwhile, and they are closed."""
    reference = target.greedy(PROMPT, TOKENS)
    async with LocalSwarm(str(target), ["0:4"], threads=1) as swarm, Client(swarm.joins, str(target), "none") as client:
        [node] = swarm.nodes
        place, before = Address.parse(node.address), _open_files(node)
        silent = [await asyncio.open_connection(place.host, place.port) for _ in range(CONNECTIONS)]
        await eventually(lambda: _open_files(node) >= before + CONNECTIONS // 2)
        print(f"{_open_files(node) - before} silent connections are held")
        reference.assert_same((await client.generate(PROMPT, max_new_tokens=TOKENS)).token_ids)
        async with asyncio.timeout(CLOSED_SECONDS + SLACK_SECONDS):
            assert not any(await asyncio.gather(*(reader.read() for reader, _ in silent)))
        for _, writer in silent:
            writer.close()
        await eventually(lambda: _open_files(node) <= before + 1)
        reference.assert_same((await client.generate(PROMPT, max_new_tokens=TOKENS)).token_ids)
