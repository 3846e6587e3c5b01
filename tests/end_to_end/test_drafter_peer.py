"""A drafter peer in a process of its own, and what is left of an answer's drafts when it is killed or frozen."""

import json
import signal
import subprocess
from typing import Any

import pytest

from dsd_client.local_swarm import LocalSwarm
from tests.conftest import TinyModel
from tests.end_to_end.conftest import Commands, ended

PROMPT = "question: how many shells"
NEW = 120

Peer = tuple[subprocess.Popen[str], dict[str, Any]]


@pytest.fixture
def peer(commands: Commands, drafter: TinyModel, nodes: LocalSwarm) -> Peer:
    """The process, and what it said when it was ready. The swarm knows it."""
    where = ["--model", str(drafter), "--listen", "127.0.0.1:0", "--join", nodes.joins[0]]
    node = commands.start("dsd-node", "start", "--role", "drafter", *where, "--json")
    assert node.stdout is not None
    return node, json.loads(node.stdout.readline())


def answer(commands: Commands, join: list[str], *options: str) -> subprocess.Popen[str]:
    return commands.start(
        "dsd-client", "generate", *join, "--drafter", "swarm", "--json-lines",
        "--max-new-tokens", str(NEW), "--speculation", "blocking", "--lookahead", "3", *options, PROMPT,
    )  # fmt: skip


def test_a_peer_that_others_know_drafts(commands: Commands, join: list[str], peer: Peer, target: TinyModel) -> None:
    node, ready = peer
    found = ended(answer(commands, join))
    result = json.loads(found.out.splitlines()[-1])
    target.greedy(target.tokenizer(PROMPT)["input_ids"], NEW).assert_same(result["token_ids"])
    assert result["stats"]["drafter"] == f"the drafter at {ready['address']}"
    assert result["stats"]["accepted"] > NEW / 5
    node.send_signal(signal.SIGTERM)
    assert ended(node).code == 0


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_peer_that_is_struck_amid_an_answer(
    commands: Commands, join: list[str], peer: Peer, target: TinyModel, blow: signal.Signals
) -> None:
    node, ready = peer
    answering = answer(commands, join, "--join", ready["join"])
    assert answering.stdout is not None
    for _ in range(3):
        assert "stats" not in json.loads(answering.stdout.readline())
    node.send_signal(blow)
    found = ended(answering)
    node.send_signal(signal.SIGKILL)
    result = json.loads(found.out.splitlines()[-1])
    target.greedy(target.tokenizer(PROMPT)["input_ids"], NEW).assert_same(result["token_ids"])
    assert found.code == 0
    assert result["stats"]["drafter"].startswith(f"ngram: the drafter at {ready['address']} ")
    assert "Traceback" not in found.err


def test_a_drafter_is_a_whole_model(commands: Commands, drafter: TinyModel) -> None:
    found = commands.run("dsd-node", "start", "--role", "drafter", "--model", str(drafter), "--layers", "0:2")
    assert "a drafter holds a whole model" in found.assert_failed(8)
