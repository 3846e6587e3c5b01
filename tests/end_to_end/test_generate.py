"""`dsd-node start` and `dsd-client generate`, as a shell sees them."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dsd_client.local_swarm import LocalSwarm
from dsd_core.network.address import Address
from dsd_core.network.join_token import JoinToken
from tests.conftest import TinyModel, build_tokenizer
from tests.end_to_end.conftest import SECONDS, Commands, Generate, ended

PROMPT = "question: how many shells"
STATS = (
    "prompt_tokens new_tokens drafted accepted recovered bonus rejections frames wasted near_ties seconds "
    "seconds_to_first_token tokens_per_second bytes_sent bytes_received reroutes seed acceptance_mode"
)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_as_text(generate: Generate, target: TinyModel, drafter: TinyModel) -> None:
    """stdout holds the answer and nothing else; figures go to stderr."""
    found = generate(PROMPT, "--drafter", str(drafter), "--max-new-tokens", "20")
    prompt = target.tokenizer(PROMPT)["input_ids"]
    answer = target.greedy(prompt, 20).token_ids
    whole = target.tokenizer.decode(prompt + answer, skip_special_tokens=True)
    assert (found.code, found.out) == (0, whole.removeprefix(PROMPT) + "\n")
    figures = r"\[20 tokens in [\d.]+ s, [\d.]+ tokens/s, \d+ frames(, \d+ of \d+ drafts accepted)?, seed \d+\]"
    assert re.fullmatch(figures, found.err.strip())


def test_an_answer_as_one_object(generate: Generate, target: TinyModel) -> None:
    found = generate(PROMPT, "--max-new-tokens", "20", "--json", "--temperature", "0.8", "--seed", "7", "--logprobs", "2")
    assert (found.code, found.err) == (0, "")
    [line] = found.out.splitlines()
    answer = json.loads(line)
    assert set(answer) == {"text", "token_ids", "finish_reason", "stats", "logprobs"}
    assert set(STATS.split()) <= set(answer["stats"])
    assert answer["finish_reason"] == "length"
    assert answer["stats"]["new_tokens"] == len(answer["token_ids"]) == len(answer["logprobs"]) == 20
    assert answer["stats"]["seed"] == 7
    assert all(len(entry["top"]) == 2 for entry in answer["logprobs"])


def test_an_answer_as_lines(generate: Generate, nodes: LocalSwarm) -> None:
    found = generate(PROMPT, "--max-new-tokens", "20", "--json-lines", "--speculation", "off")
    assert (found.code, found.err) == (0, "")
    *chunks, answer = [json.loads(line) for line in found.out.splitlines()]
    assert len(chunks) >= 20
    assert [token for chunk in chunks for token in chunk["token_ids"]] == answer["token_ids"]
    assert "".join(chunk["text"] for chunk in chunks) == answer["text"]
    for chunk in chunks:
        assert set(chunk) == {"token_ids", "text", "origin", "route"}
        assert chunk["route"] == nodes.addresses
        assert len(chunk["origin"]) == len(chunk["token_ids"])
    assert set(answer["stats"]) >= set(STATS.split())


def test_same_seed_same_text_in_two_processes(generate: Generate, drafter: TinyModel) -> None:
    given = (PROMPT, "--max-new-tokens", "20", "--temperature", "1", "--seed", "3")
    assert generate(*given, "--drafter", str(drafter)).out == generate(*given, "--speculation", "off").out


# -- exit codes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--speculation", "eager", "x"],
        ["--acceptance", "lax", "x"],
        ["--no-such-option", "x"],
        ["--max-new-tokens", "many", "x"],
        ["--temperature", "warm", "x"],
        [],
    ],
    ids=" ".join,
)
def test_usage_that_the_command_line_itself_refuses(commands: Commands, arguments: list[str]) -> None:
    found = commands.run("dsd-client", "generate", *arguments)
    assert found.code == 2
    assert found.out == ""
    assert "Traceback" not in found.err
    assert found.err.strip().splitlines()[-1].startswith("Error: ")


def test_a_node_refuses_addresses_before_it_loads_anything(commands: Commands) -> None:
    for listen in ("0.0.0.0:4100", "nonsense"):
        found = commands.run("dsd-node", "start", "--insecure-loopback", "--listen", listen)
        assert listen in found.assert_failed(2)


def test_what_is_met_at_an_address_for_the_first_time_is_said(
    commands: Commands, target: TinyModel, nodes: LocalSwarm, tmp_path: Path
) -> None:
    joins = [option for address in nodes.addresses for option in ("--join", address)]
    command = ["dsd-client", "generate", *joins, "--model", str(target), "--data-dir", str(tmp_path), PROMPT]
    assert commands.run(*command).err.count("for the first time") == len(nodes.addresses)
    assert "for the first time" not in commands.run(*command).err


def test_a_bad_address_to_join(commands: Commands) -> None:
    assert "HOST:PORT" in commands.run("dsd-client", "generate", "--join", "nowhere", "x").assert_failed(2)


@pytest.mark.parametrize("option", [["--seed", "-1"], ["--max-new-tokens", "-300"]], ids=" ".join)
def test_values_that_mean_nothing(generate: Generate, option: list[str]) -> None:
    found = generate(*option, "x")
    found.assert_failed(2)
    assert found.out == ""


def test_no_peers(commands: Commands, target: TinyModel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        address = f"127.0.0.1:{bound.getsockname()[1]}"
    assert address in commands.run("dsd-client", "generate", "--join", address, "--model", str(target), "x").assert_failed(3)


def test_an_unknown_model(commands: Commands, nodes: LocalSwarm) -> None:
    found = commands.run("dsd-client", "generate", "--join", nodes.joins[0], "--model", "nobody/nothing-of-this-name", "x")
    assert "nobody/nothing-of-this-name" in found.assert_failed(5)


def test_layers_that_the_model_has_not(commands: Commands, target: TinyModel) -> None:
    found = commands.run("dsd-node", "start", "--model", str(target), "--layers", "3:9", "--listen", "127.0.0.1:0")
    assert "0:4" in found.assert_failed(8)


def test_layers_that_nobody_holds(commands: Commands, nodes: LocalSwarm, target: TinyModel) -> None:
    found = commands.run("dsd-client", "generate", "--join", nodes.joins[0], "--model", str(target), "x")
    assert "2:4" in found.assert_failed(9)


def test_a_prompt_that_is_too_long(generate: Generate) -> None:
    found = generate("--max-new-tokens", "9000", "x")
    found.assert_failed(10)
    assert found.out == ""


def test_a_drafter_of_another_vocabulary(generate: Generate, drafter: TinyModel, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(drafter.directory, other)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(other)
    assert "drafter" in generate("--drafter", str(other), "x").assert_failed(11)


def test_a_port_in_use(commands: Commands, nodes: LocalSwarm, target: TinyModel) -> None:
    found = commands.run("dsd-node", "start", "--model", str(target), "--listen", nodes.addresses[0])
    assert nodes.addresses[0] in found.assert_failed(12)


def test_a_directory_without_safetensors(commands: Commands, target: TinyModel, tmp_path: Path) -> None:
    shutil.copy(target.directory / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80pickle")
    found = commands.run("dsd-node", "start", "--model", str(tmp_path), "--listen", "127.0.0.1:0")
    assert "safetensors" in found.assert_failed(16)


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_nodes(commands: Commands, target: TinyModel, tmp_path: Path) -> list[tuple[subprocess.Popen[str], dict[str, str]]]:
    """Two nodes that a test may kill, and what they said when they were ready."""
    started = [
        commands.start(
            "dsd-node", "start", "--model", str(target), "--layers", layers, "--listen", "127.0.0.1:0", "--json",
            "--data-dir", str(tmp_path / layers[0]),
            stderr=subprocess.DEVNULL,
        )
        for layers in ("0:3", "3:4")
    ]  # fmt: skip
    return [(node, _ready(node)) for node in started]


def _ready(node: subprocess.Popen[str]) -> dict[str, str]:
    assert node.stdout is not None
    ready: dict[str, str] = json.loads(node.stdout.readline())
    return ready


def _long_answer(commands: Commands, target: TinyModel, addresses: list[str], *more: str) -> subprocess.Popen[str]:
    """A command in the middle of an answer: it has shown some of it."""
    joins = [option for address in addresses for option in ("--join", address)]
    arguments = [*joins, "--model", str(target), "--speculation", "off", "--max-new-tokens", "480", *more, PROMPT]
    return commands.start("dsd-client", "generate", *arguments)


def test_the_ready_line_and_a_node_that_is_killed(
    commands: Commands, target: TinyModel, own_nodes: list[tuple[subprocess.Popen[str], dict[str, str]]]
) -> None:
    (first, living), (last, dying) = own_nodes
    answering = _long_answer(commands, target, [living["join"], dying["join"]], "--timeout", "1")
    assert answering.stdout is not None
    begun = answering.stdout.read(30)
    last.kill()
    found = ended(answering)
    message = found.assert_failed(3)
    assert dying["address"] in message
    whole = target.tokenizer.decode(
        target.greedy(target.tokenizer(PROMPT)["input_ids"], 480).token_ids, skip_special_tokens=True
    )
    shown = (begun + found.out).removesuffix("\n")
    assert len(shown) >= 30
    assert whole.startswith(shown.rstrip("\N{REPLACEMENT CHARACTER}"))
    # The node that is left has given the session up, and ends when it is told to.
    first.send_signal(signal.SIGTERM)
    assert first.wait(SECONDS) == 0


def test_the_ready_line(commands: Commands, target: TinyModel) -> None:
    node = commands.start(
        "dsd-node", "start", "--model", str(target), "--layers", "1:3", "--listen", "127.0.0.1:0", "--json",
    )  # fmt: skip
    ready = _ready(node)
    assert set(ready) == {"event", "address", "peer_id", "join", "model", "layers"}
    assert (ready["event"], ready["model"], ready["layers"]) == ("ready", str(target), [1, 3])
    assert JoinToken.decode(ready["join"]).seeds == ((Address.parse(ready["address"]), ready["peer_id"]),)
    assert int(ready["address"].removeprefix("127.0.0.1:")) > 0
    node.send_signal(signal.SIGTERM)
    found = ended(node)
    assert (found.code, found.out) == (0, "")
    assert "Traceback" not in found.err


def test_a_node_ends_on_ctrl_c(commands: Commands, target: TinyModel) -> None:
    node = commands.start("dsd-node", "start", "--model", str(target), "--listen", "127.0.0.1:0")
    assert node.stderr is not None
    assert node.stderr.readline().startswith("ready: layers 0:4 of ")
    node.send_signal(signal.SIGINT)
    found = ended(node)
    assert found.code == 130
    assert "Traceback" not in found.err


@pytest.mark.parametrize("form", [[], ["--json-lines"]], ids=["text", "lines"])
def test_ctrl_c_ends_an_answer(commands: Commands, nodes: LocalSwarm, target: TinyModel, form: list[str]) -> None:
    answering = _long_answer(commands, target, nodes.addresses, *form)
    assert answering.stdout is not None
    answering.stdout.read(30)
    answering.send_signal(signal.SIGINT)
    started = time.monotonic()
    found = ended(answering)
    assert found.code == 130
    assert "Traceback" not in found.err
    assert time.monotonic() - started < 10


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["dsd_node", "dsd_client"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["start", "--help"], ["generate", "--help"]], ids=" ".join)
def test_help_is_quick(program: str, arguments: list[str]) -> None:
    if arguments[0] == ("generate" if program == "dsd_node" else "start"):
        pytest.skip("the other program's")
    code = (
        f"import sys, {program}.__main__ as m; sys.argv[1:] = {arguments!r}\n"
        "try: m.main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "heavy = {'torch', 'grpc', 'transformers', 'numpy', 'rich', 'google.protobuf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout
