"""`dsd-client serve` as a process."""

import json
import signal
import subprocess

import httpx
import openai
import pytest

from tests.end_to_end.conftest import Commands


@pytest.fixture
def started(commands: Commands, join: list[str]) -> tuple[subprocess.Popen[str], str, str]:
    """A gateway's process, its URL, and its model."""
    process = commands.start("dsd-client", "serve", *join, "--drafter", "ngram", "--port", "0", "--json", "--seed", "3")
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["event"] == "ready"
    return process, ready["url"], ready["model"]


def test_serve_answers_and_ends_when_told_to(started: tuple[subprocess.Popen[str], str, str]) -> None:
    process, url, model = started
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        said = client.completions.create(model=model, prompt="the quick", max_tokens=4, temperature=1.0)
        assert said.usage is not None
        assert said.model_extra is not None
        assert said.model_extra["dsd"]["seed"] == 3
    assert httpx.get(f"{url}/ready").status_code == 200
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_beyond_loopback_a_key_is_required(commands: Commands) -> None:
    assert "--api-key" in commands.run("dsd-client", "serve", "--host", "0.0.0.0", "--port", "0").assert_failed(2)
