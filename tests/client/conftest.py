"""Clients of the session's swarms, opened once."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dsd_client import Client, stage
from tests.conftest import InProcessSwarm, TinyModel

PROMPT = "question: how many shells does mia have? answer: the quick"

Clients = Callable[..., Awaitable[Client]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def swarms(
    one_stage: InProcessSwarm, two_stages: InProcessSwarm, four_stages: InProcessSwarm
) -> dict[int, InProcessSwarm]:
    """By number of stages."""
    return {1: one_stage, 2: two_stages, 4: four_stages}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def clients(swarms: dict[int, InProcessSwarm], target: TinyModel, drafter: TinyModel) -> AsyncIterator[Clients]:
    """A client by number of stages and drafter."""
    opened: dict[tuple[Any, ...], Client] = {}
    async with AsyncExitStack() as stack:

        async def client(stages: int = 2, drafter_name: str | None = None) -> Client:
            name = drafter_name or str(drafter)
            if (stages, name) not in opened:
                one = Client(swarms[stages].addresses, str(target), name)
                opened[stages, name] = await stack.enter_async_context(one)
            return opened[stages, name]

        yield client


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of these tests are on this machine, where one frame at a time comes first; what is to be tested is streaming."""
    monkeypatch.setattr(stage, "NEAR_SECONDS", 0.0)


@pytest.fixture
def prompt(target: TinyModel) -> list[int]:
    return list(target.tokenizer(PROMPT)["input_ids"])


@pytest.fixture
def other_files(target: TinyModel, tmp_path: Path) -> Callable[..., Path]:
    """The target's weights beside other small files: the same model, to the nodes."""

    def make(**texts: str) -> Path:
        directory = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(target.directory, directory)
        for name, text in texts.items():
            (directory / f"{name}.json").write_text(text)
        return directory

    return make
