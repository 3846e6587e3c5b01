"""Every example is run, against nodes and a gateway of its own."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from dsd_client.local_swarm import LocalSwarm
from dsd_core import embedded

ROOT = Path(__file__).parents[2]
ASK_A_GATEWAY = {"openai_client.py", "chain.py"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def nodes() -> AsyncIterator[LocalSwarm]:
    async with LocalSwarm(str(embedded.TARGET), ["0:4", "4:8"], threads=1) as swarm:
        yield swarm


@pytest.fixture(scope="module")
def gateway(nodes: LocalSwarm) -> Iterator[str]:
    """Its URL."""
    joins = [word for join in nodes.joins for word in ("--join", join)]
    command = [sys.executable, "-m", "dsd_client", "serve", *joins, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_example(nodes: LocalSwarm, gateway: str, name: str) -> None:
    arguments = [gateway] if name in ASK_A_GATEWAY else nodes.joins
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert any(character.isdigit() for character in done.stdout)
