"""Nodes of our own on this machine: real processes, for demonstrations, tests and benchmarks."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO

from dsd_core.errors import DsdError, TimedOut

START_SECONDS = 120.0
STOP_SECONDS = 5.0


@dataclass(slots=True)
class LocalNode:
    """A `dsd-node` process that said it is ready."""

    process: asyncio.subprocess.Process
    address: str
    join: str
    """A token: the address, and the key that answers there."""
    layers: range
    log: IO[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid


class LocalSwarm:
    """A model cut into contiguous spans, one process each. Use `async with`: leaving it ends every process.

    `spans` are layers as the command line takes them; `threads` is how many cores each node computes on. `options` are
    further ones of the command line, a sequence for each node; `program` is the module that takes them.
    """

    def __init__(
        self,
        model: str,
        spans: Sequence[str],
        *,
        dtype: str = "auto",
        threads: int | None = None,
        options: Sequence[Sequence[str]] = (),
        program: str = "dsd_node",
    ) -> None:
        self._model = model
        self._spans = spans
        self._options = options or [()] * len(spans)
        self._program = program
        self._dtype = dtype
        self._threads = threads or max(1, (os.cpu_count() or 1) // len(spans))
        self._keys = tempfile.TemporaryDirectory(prefix="dsd-")
        self.nodes: list[LocalNode] = []

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    @property
    def joins(self) -> list[str]:
        """A join token for each node."""
        return [node.join for node in self.nodes]

    async def __aenter__(self) -> "LocalSwarm":
        starts = [asyncio.create_task(self._start(index, span)) for index, span in enumerate(self._spans)]
        try:
            ended, _ = await asyncio.wait(starts, return_when=asyncio.FIRST_EXCEPTION)
            for start in ended:
                start.result()
        except BaseException:
            await _abandon(starts)
            self._keys.cleanup()
            raise
        self.nodes = [start.result() for start in starts]
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*map(_stop, self.nodes))
        self._keys.cleanup()

    async def _start(self, index: int, span: str) -> LocalNode:
        # Closed with the node, not at the end of this function.
        log = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            return await self._run(index, span, log)
        except BaseException:
            log.close()
            raise

    async def _run(self, index: int, span: str, log: IO[bytes]) -> LocalNode:
        arguments = ["--model", self._model, "--layers", span, "--dtype", self._dtype, "--listen", "127.0.0.1:0", "--json"]
        arguments += ["--data-dir", f"{self._keys.name}/{index}", *self._options[index]]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._program, "start", *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            stdin=asyncio.subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": str(self._threads)},
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we stop the nodes.
        )  # fmt: skip
        try:
            return await _ready(process, log)
        except BaseException:
            await _end(process)
            raise


async def _abandon(starts: Sequence[asyncio.Task[LocalNode]]) -> None:
    """End every process, whether it is ready or not."""
    for start in starts:
        start.cancel()
    ended = await asyncio.gather(*starts, return_exceptions=True)
    await asyncio.gather(*(_stop(node) for node in ended if isinstance(node, LocalNode)))


async def _ready(process: asyncio.subprocess.Process, log: IO[bytes]) -> LocalNode:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError:
        raise TimedOut(f"a node was not ready after {START_SECONDS:.0f} s; the machine may be overloaded") from None
    if not line:
        raise DsdError(f"a node did not start: {_last_line(log)}")
    ready = json.loads(line)
    return LocalNode(process, ready["address"], ready["join"], range(*ready["layers"]), log)


async def _stop(node: LocalNode) -> None:
    await _end(node.process)
    node.log.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask the process to stop; insist if it does not."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def spans(num_layers: int, nodes: int) -> list[str]:
    """`nodes` spans of nearly equal length."""
    cuts = [round(index * num_layers / nodes) for index in range(nodes + 1)]
    return [f"{start}:{stop}" for start, stop in pairwise(cuts)]
