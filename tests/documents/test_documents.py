"""Every command and program in the documents is run; those that need other machines or a hub are parsed."""

import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest

from dsd_client.__main__ import cli as client_cli
from dsd_node.__main__ import cli as node_cli

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
    program, *arguments = dropwhile(lambda word: "=" in word, command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program in CLIS:
        name, *options = arguments
        CLIS[program].commands[name].make_context(name, options)
    elif program == "install":
        to = arguments[-1].replace("~", str(tmp_path))
        subprocess.run([program, *arguments[:-1], to], cwd=ROOT, check=True)
    elif program == "python" and arguments[0] == "-m":
        names = takewhile(lambda word: not word.startswith("-"), arguments[1:])
        subprocess.run([sys.executable, "-m", *names, "--help"], cwd=ROOT, check=True, capture_output=True)
    else:
        assert program in ELSEWHERE, f"no test runs {command}"


def test_paths_exist() -> None:
    for document in DOCUMENTS:
        for path in re.findall(r"\]\(([\w./]+)\)", (ROOT / document).read_text()):
            assert ((ROOT / document).parent / path).exists(), f"{document} names {path}"


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


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


def test_own_swarm_and_program() -> None:
    """The README's nodes are started; its client commands and its Python program ask them."""
    ports = dict(zip(("4100", "4101"), map(str, free_ports(2)), strict=True))

    def moved(text: str) -> str:
        return re.sub("410[01]", lambda port: ports[port.group()], text)

    lines = [[moved(word) for word in line] for line in own_swarm()]
    program = moved(blocks("README.md", "python")[0])
    with nodes([line for line in lines if line[0] == "dsd-node"]):
        for line in (line for line in lines if line[0] == "dsd-client"):
            done = subprocess.run(
                [sys.executable, "-m", "dsd_client", *line[1:]], input="/exit\n", capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip() or "chat" in line
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
