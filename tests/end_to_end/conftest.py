"""Real processes: a swarm of two nodes for the whole session, and a way to run commands and to find what they leave behind."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from dsd_client.local_swarm import LocalSwarm
from tests.conftest import TinyModel

MARK = "DSD_TEST_RUN"
SECONDS = 90.0


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def assert_failed(self, code: int) -> str:
        """One line on stderr that says why; returns it."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert self.code == code, self
        assert "Traceback" not in self.err
        assert len(lines) == 1, self.err
        return lines[0]


@dataclass
class Commands:
    """Starts commands in processes that bear a mark, so that whatever they start can be found."""

    data_home: Path
    """Keys, and what is remembered, are of one test alone."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, program: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {MARK: self.mark, "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
        environment |= {"XDG_DATA_HOME": str(self.data_home)}
        command = [sys.executable, "-m", program.replace("-", "_"), *arguments]
        process = subprocess.Popen(command, **given | {"env": environment} | options)  # type: ignore[call-overload]
        self.started.append(process)
        return process  # type: ignore[no-any-return]

    def run(self, program: str, *arguments: str) -> Ended:
        return ended(self.start(program, *arguments))

    def left_behind(self) -> list[int]:
        """Processes that bear the mark and are still there."""
        return [pid for pid in _processes() if f"{MARK}={self.mark}".encode() in _environment(pid)]

    def stop(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in self.left_behind():
            os.kill(pid, signal.SIGKILL)


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=SECONDS)
    return Ended(process.returncode, out, err)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("data"))
    yield commands
    commands.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def nodes(target: TinyModel) -> AsyncIterator[LocalSwarm]:
    async with LocalSwarm(str(target), ["0:2", "2:4"], threads=1) as swarm:
        yield swarm


@pytest.fixture(scope="session")
def join(nodes: LocalSwarm, target: TinyModel) -> list[str]:
    """The options that reach the session's nodes."""
    return [*(option for token in nodes.joins for option in ("--join", token)), "--model", str(target)]


Generate = Callable[..., Ended]


@pytest.fixture
def generate(commands: Commands, join: list[str]) -> Generate:
    return lambda *arguments: commands.run("dsd-client", "generate", *join, *arguments)
