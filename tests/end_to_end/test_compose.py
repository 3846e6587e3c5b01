"""docker-compose.yml, without Docker: its commands, health checks and order of starting, as processes on loopback."""

import os
import random
import re
import shlex
import subprocess
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.end_to_end.conftest import MARK, SECONDS, Commands

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
KEY = "a key that was chosen"


class Composed:
    """Each service on a loopback address of its own, so that ports are those of the file."""

    def __init__(self, commands: Commands, data: Path) -> None:
        self._commands = commands
        self._data = data
        network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self.hosts = {name: f"{network}.{number}" for number, name in enumerate(SERVICES, start=1)}

    def up(self) -> None:
        """Start all, each when what it depends on is healthy."""
        starts = TopologicalSorter({name: service.get("depends_on", {}) for name, service in SERVICES.items()})
        starts.prepare()
        while starts.is_active():
            started = {name: self._start(name) for name in starts.get_ready()}
            for name, process in started.items():
                self._wait_until_healthy(name, process)
            starts.done(*started)

    def _start(self, name: str) -> "subprocess.Popen[str]":
        program, *arguments = shlex.split(SERVICES[name]["command"])
        return self._commands.start(
            program, *(self._on_loopback(word, name) for word in arguments), env=self._environment(name), stderr=None
        )

    def _wait_until_healthy(self, name: str, process: "subprocess.Popen[str]") -> None:
        _, program, *arguments = [self._on_loopback(word, name) for word in SERVICES[name]["healthcheck"]["test"]]
        check = [sys.executable, *([] if program == "python" else ["-m", program.replace("-", "_")]), *arguments]
        end = time.monotonic() + SECONDS
        while subprocess.run(check, env=self._environment(name), stderr=subprocess.DEVNULL).returncode != 0:
            assert process.poll() is None, f"{name} has ended"
            assert time.monotonic() < end, f"{name} is not healthy"
            time.sleep(1)

    def _on_loopback(self, word: str, own: str) -> str:
        word = re.sub(r"^([a-z][a-z0-9-]*)(?=:\d+$)", lambda name: self.hosts[name.group()], word)
        return re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1)\b", self.hosts[own], word)

    def _environment(self, name: str) -> dict[str, str]:
        """The file's variables, and for each service a volume of its own."""
        given = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for key, value in SERVICES[name]["environment"].items()}
        ours = {"DSD_API_KEY": KEY} if "DSD_API_KEY" in given else {}
        return os.environ | given | ours | {"XDG_DATA_HOME": str(self._data / name), MARK: self._commands.mark}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_the_composed_swarm_answers(commands: Commands, tmp_path: Path) -> None:
    composed = Composed(commands, tmp_path)
    composed.up()
    url = f"http://{composed.hosts['gateway']}:4180/v1/completions"
    question = {"model": "", "prompt": "Question: Tom has 3 bags of 5 marbles.", "max_tokens": 8, "temperature": 0}
    with httpx.Client(timeout=SECONDS) as http:
        assert http.post(url, json=question).status_code == 401
        http.headers["Authorization"] = f"Bearer {KEY}"
        question["model"] = http.get(url.replace("completions", "models")).json()["data"][0]["id"]
        answer = http.post(url, json=question).json()
        computed = http.get(f"http://{composed.hosts['stage-3']}:9100/metrics").text
        drafted = http.get(f"http://{composed.hosts['drafter']}:9100/metrics").text
    assert answer["usage"]["completion_tokens"] == 8
    assert float(re.search(r"(?m)^dsd_node_computed_nodes_total (\S+)", computed)[1]) > 8  # type: ignore[index]
    assert float(re.search(r"(?m)^dsd_node_draft_seconds_count (\S+)", drafted)[1]) > 0  # type: ignore[index]


def test_every_service_is_watched_and_keeps_its_key() -> None:
    for name, service in SERVICES.items():
        assert service["healthcheck"]["test"], name
        assert f"{name}:/home/dsd/.local/share/dsd" in service["volumes"]
        assert "models:/home/dsd/.cache/huggingface" in service["volumes"]


def test_the_image_has_what_it_copies_and_runs_as_nobody_special() -> None:
    steps = [shlex.split(line) for line in (ROOT / "Dockerfile").read_text().splitlines() if re.match("[A-Z]+ ", line)]
    copied = {source for word, *sources, _ in steps if word == "COPY" for source in sources}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    assert [name for word, *names in steps if word == "USER" for name in names] == ["dsd"]


def test_docker_reads_it() -> None:
    command = ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    try:
        subprocess.run(["docker", "compose", "version"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no docker compose here")
    subprocess.run(command, check=True, env=os.environ | {"DSD_API_KEY": KEY})
