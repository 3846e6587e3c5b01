"""Real processes that find each other by one seed, and go on without it."""

import asyncio
from pathlib import Path

from dsd_client import Client
from dsd_client.local_swarm import LocalNode, LocalSwarm
from dsd_core.membership.ids import PeerId
from dsd_core.network.address import Address
from dsd_core.network.last_swarm import LastSwarm
from tests.conftest import TinyModel

SECONDS = 60.0
PROMPT = "question: how many shells does mia have? answer:"


async def test_three_nodes_and_a_client_know_one_seed_which_dies(target: TinyModel, tmp_path: Path) -> None:
    async with LocalSwarm(str(target), ["0:4"], threads=1) as seeds:
        [seed] = seeds.nodes
        join = [["--join", seed.address], ["--join", seed.join]]
        async with LocalSwarm(str(target), ["0:2", "2:4"], threads=1, options=join) as others:
            async with Client([seed.address], str(target), "ngram", data_dir=tmp_path) as client:
                expected = await ask(client)
                await everybody_is_found(client, tmp_path, [seed, *others.nodes])
                seed.process.kill()
                await seed.process.wait()
                assert await ask(client) == expected
            async with Client((), str(target), "ngram", data_dir=tmp_path) as client:
                assert await ask(client) == expected


async def ask(client: Client) -> list[int]:
    return list((await client.generate(PROMPT, max_new_tokens=16)).token_ids)


async def everybody_is_found(client: Client, data_dir: Path, nodes: list[LocalNode]) -> None:
    """Returns when the client, which looks around as it asks, remembers all of them."""
    addresses = {node.address for node in nodes}
    async with asyncio.timeout(SECONDS):
        while addresses != {str(address) for address, _ in _remembered(data_dir)}:
            await ask(client)
            await asyncio.sleep(0.5)


def _remembered(data_dir: Path) -> tuple[tuple[Address, PeerId], ...]:
    token = LastSwarm(data_dir).read()
    return token.seeds if token else ()
