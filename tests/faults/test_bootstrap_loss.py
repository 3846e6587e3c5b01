"""R15: whoever was there first is needed only to join. All seeds are killed; nodes come and go, and nothing fails."""

from pathlib import Path

from dsd_client import Client
from dsd_client.local_swarm import LocalSwarm
from tests.conftest import TinyModel

PROMPT = "question: how many shells does mia have? answer:"
ROUNDS = 4


async def test_a_swarm_without_its_seed_takes_its_nodes_back(target: TinyModel, tmp_path: Path) -> None:
    """Each node in turn is killed, and started again on another port with nothing but its data directory."""
    model, homes = str(target), [str(tmp_path / name) for name in ("a", "b", "c", "d")]
    spans = ["0:2", "2:4", "0:2", "2:4"]
    running: list[LocalSwarm] = []
    async with LocalSwarm(model, ["0:4"], threads=1) as seeds:
        [seed] = seeds.nodes
        for span, home in zip(spans, homes, strict=True):
            running.append(await _node(model, span, home, "--join", seed.join))
        try:
            async with Client([seed.join], model, "ngram", data_dir=tmp_path / "client") as client:
                expected = await _ask(client)
            seed.process.kill()
            await seed.process.wait()
            for again in range(ROUNDS):
                index = again % len(homes)
                running[index].nodes[0].process.kill()
                await running[index].__aexit__()
                async with Client((), model, "ngram", data_dir=tmp_path / "client") as client:
                    assert await _ask(client) == expected
                running[index] = await _node(model, spans[index], homes[index])
                async with Client((), model, "ngram", data_dir=tmp_path / "client") as client:
                    assert await _ask(client) == expected
        finally:
            for swarm in running:
                await swarm.__aexit__()


async def _node(model: str, span: str, home: str, *options: str) -> LocalSwarm:
    return await LocalSwarm(model, [span], threads=1, options=[["--data-dir", home, *options]]).__aenter__()


async def _ask(client: Client) -> list[int]:
    return list((await client.generate(PROMPT, max_new_tokens=16)).token_ids)
