"""Every command of ours and every program in the documents is run; those that need a hub or a daemon are parsed."""

import asyncio
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest

from dsd_client.__main__ import cli as client_cli
from dsd_node.__main__ import cli as node_cli
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "BENCHMARKS.md", "docs/OPERATIONS.md", "dsd_core/embedded/README.md",
)  # fmt: skip
ELSEWHERE = {"ssh", "docker", "systemctl", "journalctl"}
"""Programs that need other machines or a daemon. What Docker would run, test_compose.py runs; systemd reads the unit in
test_operations.py."""
PROMPT = re.compile(r"^\w*\$ +(.*)$")
CLIS = {"dsd-client": client_cli, "dsd-node": node_cli}


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = [line for name in DOCUMENTS for block in blocks(name, "console") for line in block.splitlines()]
    matches = [PROMPT.match(line) for line in lines]
    # $'...' is the shell's, not shlex's.
    return [shlex.split(match.group(1).replace("$'", "'")) for match in matches if match]


def own_swarm() -> list[list[str]]:
    section = (ROOT / "README.md").read_text().split("## Your own swarm")[1].split("\n## ")[0]
    lines = re.findall(r"^\$ +(.*)$", section, re.MULTILINE)
    return [shlex.split(line.replace("$'", "'")) for line in lines]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command_exists(command: list[str], tmp_path: Path) -> None:
    program, *arguments = without_settings(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program in CLIS:
        name, *options = arguments
        CLIS[program].commands[name].make_context(name, options)
    elif program == "install":
        to = arguments[-1].replace("~", str(tmp_path))
        subprocess.run([program, *arguments[:-1], to], cwd=ROOT, check=True)
    elif program == "python" and arguments[0] == "-m":
        assert_benchmark(arguments[1:])
    else:
        assert program in ELSEWHERE, f"no test runs {command}"


def assert_benchmark(words: list[str]) -> None:
    """It is there, and knows its options: all that it objects to is one of ours."""
    name = ".".join(takewhile(lambda word: not word.startswith("-"), words))
    options = dropwhile(lambda word: not word.startswith("-"), words)
    with redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit):
        asyncio.run(import_module(name).main([*options, "--no-such-option"]))
    assert "error: unrecognized arguments: --no-such-option\n" in said.getvalue()


def test_paths_exist() -> None:
    for document in DOCUMENTS:
        for path in re.findall(r"\]\(([\w./]+)\)", (ROOT / document).read_text()):
            assert ((ROOT / document).parent / path).exists(), f"{document} names {path}"


@contextmanager
def nodes(starts: list[list[str]]) -> Iterator[None]:
    """Each with a key of its own, as on machines of their own, and one after the other."""
    homes, started = tempfile.TemporaryDirectory(), list[subprocess.Popen[str]]()
    try:
        for number, start in enumerate(starts):
            command = [sys.executable, "-m", "dsd_node", *start[1:]]
            environment = os.environ | {"XDG_DATA_HOME": f"{homes.name}/{number}"}
            node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
            started.append(node)
            assert node.stderr is not None
            assert any("ready" in line for line in node.stderr)
        yield
    finally:
        for node in started:
            node.terminate()
            node.communicate()
        homes.cleanup()


PORTS = dict(zip(("4100", "4101", "9100", "4318"), (str(free_port()) for _ in range(4)), strict=True))
"""Those of the documents, and those of this run."""
HUB = "Qwen/"
"""Whoever names such a model needs a hub: those commands are parsed above, and no more."""


def moved(text: str) -> str:
    """On this machine, and at ports of this run. Where other machines are named, ours has to do."""
    text = text.replace("bob.example.org:4100", "127.0.0.1:4101").replace("0.0.0.0:4100", "127.0.0.1:4101")
    text = text.replace("alice.example.org", "127.0.0.1")
    return re.sub(r"\b(4100|4101|9100|4318)\b", lambda port: PORTS[port.group()], text)


def run_line(line: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    module, *arguments = line[0].replace("-", "_"), *line[1:]
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | environment,
        input="/exit\n",
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_own_swarm_and_program() -> None:
    """The README's nodes are started; its client commands and its Python program ask them."""
    lines = [[moved(word) for word in line] for line in own_swarm()]
    program = moved(blocks("README.md", "python")[0])
    with nodes([line for line in lines if line[0] == "dsd-node"]):
        for line in (line for line in lines if line[0] == "dsd-client"):
            done = run_line(line)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip() or "chat" in line
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def others() -> list[list[str]]:
    """Commands of ours that stand outside that section and need no hub."""
    ours = [line for line in commands() if without_settings(line)[0] in CLIS and line not in own_swarm()]
    return [line for line in ours if not any(word.startswith(HUB) for word in line)]


def without_settings(line: list[str]) -> list[str]:
    return list(dropwhile(lambda word: "=" in word, line))


@pytest.fixture(scope="module")
def readmes_first_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One node with the whole model where the documents have one; yields an environment that knows it."""
    with nodes([["dsd-node", "start", "--listen", moved("127.0.0.1:4100"), "--no-lan"]]):
        home = str(tmp_path_factory.mktemp("home"))
        # What is not said: nothing of this machine's own, and no port that may be taken.
        yield {"XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home, "DSD_JOIN": moved("127.0.0.1:4100"), "DSD_PORT": "0"}


@pytest.mark.parametrize("command", others(), ids=" ".join)
def test_other_commands_of_ours_are_run(command: list[str], readmes_first_node: dict[str, str]) -> None:
    settings = [word.partition("=") for word in takewhile(lambda word: "=" in word, command)]
    environment = readmes_first_node | {name: moved(value) for name, _, value in settings}
    line = [moved(word) for word in without_settings(command)]
    if line[1] in ("serve", "start"):
        _starts_and_stops(line, environment | {"DSD_LISTEN": "127.0.0.1:0"})
    else:
        done = run_line(line, **environment)
        assert done.returncode == 0, done.stderr


def _starts_and_stops(line: list[str], environment: dict[str, str]) -> None:
    module, *arguments = line[0].replace("-", "_"), *line[1:]
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        assert process.stderr is not None
        try:
            assert any("ready" in words for words in process.stderr)
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode == 0
