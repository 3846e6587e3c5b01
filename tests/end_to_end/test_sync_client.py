"""The SDK without asyncio, and the swarm that `demo` starts: each in a process of its own, as gRPC wants it."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from dsd_client.local_swarm import LocalSwarm, spans
from dsd_core.errors import DsdError
from tests.conftest import TinyModel
from tests.end_to_end.conftest import MARK, SECONDS, Commands

PROMPT = [5, 6, 7, 8, 9]


def run(script: str, *arguments: str) -> dict[str, object]:
    """What a script prints as its last line; warnings are errors to it."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    said: dict[str, object] = json.loads(found.stdout.splitlines()[-1])
    return said


def test_the_blocking_sdk(nodes: LocalSwarm, target: TinyModel, drafter: TinyModel) -> None:
    script = """
        import itertools, json, os, signal, sys, threading, time
        from dsd_client import SamplingParams, SyncClient
        from dsd_core.errors import PromptTooLong

        model, drafter, *join = sys.argv[1:]
        prompt = [5, 6, 7, 8, 9]
        said = {}
        with SyncClient(join, model, drafter) as client:
            said["generated"] = client.generate(prompt, max_new_tokens=20, lookahead=3).token_ids
            said["streamed"] = [token for chunk in client.stream(prompt, max_new_tokens=20) for token in chunk.token_ids]
            said["left"] = [chunk.token_ids for chunk in itertools.islice(client.stream(prompt, max_new_tokens=400), 2)]
            try:
                client.generate(prompt, max_new_tokens=10**6)
            except PromptTooLong as error:
                said["error"] = error.exit_code
            with client.conversation(positions=300, sampling=SamplingParams()) as answers:
                for chunk in answers.ask(prompt, max_new_tokens=10):
                    pass
                said["first"] = answers.result.token_ids
                # Ctrl-C in the middle of an answer, of this conversation and of a stream.
                for chunks in (answers.ask(prompt, max_new_tokens=200), client.stream(prompt, max_new_tokens=400)):
                    threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
                    try:
                        for chunk in chunks:
                            pass
                        raise AssertionError("it was not interrupted")
                    except KeyboardInterrupt:
                        pass
                    del chunks
                said["stopped"] = answers.result.finish_reason.value
                for chunk in answers.ask(prompt, max_new_tokens=10):
                    pass
                said["again"] = answers.result.token_ids
            said["vocabulary"] = client.target.shape.vocab_size
        print(json.dumps(said))
    """
    said = run(script, str(target), str(drafter), *nodes.addresses)
    reference = target.greedy(PROMPT, 20)
    reference.assert_same(said["generated"])  # type: ignore[arg-type]
    reference.assert_same(said["streamed"])  # type: ignore[arg-type]
    assert said["first"] == said["again"] == said["generated"][:10]  # type: ignore[index]
    assert (said["error"], said["stopped"], said["vocabulary"]) == (10, "cancelled", 320)
    assert len(said["left"]) == 2  # type: ignore[arg-type]


def test_a_client_that_cannot_be_opened_leaves_no_loop_behind(target: TinyModel) -> None:
    script = """
        import gc, json, sys, threading
        from dsd_client import SyncClient
        from dsd_core.errors import DsdError

        try:
            with SyncClient(["127.0.0.1:1"], sys.argv[1], "none"):
                pass
        except DsdError as error:
            kind = type(error).__name__
        gc.collect()
        print(json.dumps({"kind": kind, "threads": [thread.name for thread in threading.enumerate()]}))
    """
    said = run(script, str(target))
    assert said["kind"] == "NoPeers"
    assert "dsd-client" not in said["threads"]  # type: ignore[operator]


# -- local swarms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [(8, 3, ["0:3", "3:5", "5:8"]), (4, 1, ["0:4"]), (4, 4, ["0:1", "1:2", "2:3", "3:4"])],
)
def test_spans(layers: int, count: int, expected: list[str]) -> None:
    assert spans(layers, count) == expected


async def test_a_node_that_does_not_start(target: TinyModel, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, commands.mark)
    with pytest.raises(DsdError, match=r"a node did not start: .*0:4"):
        async with LocalSwarm(str(target), ["0:2", "3:9"], threads=1):
            pass
    assert commands.left_behind() == []


def test_a_swarm_that_is_interrupted_while_it_starts(commands: Commands, target: TinyModel) -> None:
    """One node is ready, the other is not: neither stays."""
    script = """
        import asyncio, json, os, signal, sys
        from dsd_client import local_swarm
        ready = local_swarm._ready

        async def half_ready(process, log):
            node = await ready(process, log)
            if node.layers.start:
                await asyncio.sleep(60)
            asyncio.get_running_loop().call_later(0.2, os.kill, os.getpid(), signal.SIGINT)
            return node

        local_swarm._ready = half_ready

        async def main():
            async with local_swarm.LocalSwarm(sys.argv[1], ["0:2", "2:4"], threads=1):
                raise AssertionError("it was not interrupted")

        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(target)],
        env=_environment(commands), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    commands.started.append(process)
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err) == (130, "")
    assert commands.left_behind() == []


def _environment(commands: Commands) -> dict[str, str]:
    return os.environ | {MARK: commands.mark}
