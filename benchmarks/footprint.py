"""What a node takes: memory beyond its weights and reservations, and how long the commands need to say what they can do.

    python -m benchmarks.footprint [--model DIR] [--positions N]

Linux only: resident memory is read from /proc.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.processor_time import processor_seconds
from dsd_client.lane_link import LaneLink
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_client.swarm import Swarm
from dsd_core import embedded
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.ids import LaneId, NodeId, TokenId
from dsd_core.model.source import ModelSource, resolve
from dsd_core.model.span import Span
from dsd_core.network.seeds import Seeds
from dsd_core.network.transport import Secure

MIB = 1 << 20
SESSIONS = 4
TIDY_SECONDS = 2.0
"""By then a node has tidied up after its last session."""


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(embedded.TARGET))
    parser.add_argument("--positions", type=int, default=4096)
    given = parser.parse_args(arguments)
    console = Console()
    console.print(await _memory(given.model, given.positions))
    console.print(_help())
    console.print(await _chat())


async def _memory(model: str, positions: int) -> Table:
    """One node with the whole model, before, with, and after sessions that use every position they reserved."""
    source = resolve(model)
    span = Span.load(source, range(source.num_layers))
    weights, reservation = span.weight_bytes, span.kv_bytes(positions)
    empty = _empty_torch()
    async with LocalSwarm(model, [f"0:{source.num_layers}"], threads=1) as swarm:
        pid = swarm.nodes[0].pid
        peers = Swarm(Seeds.parse(swarm.joins), Secure.kept_in(None))
        # Once before, so that what torch allocates for itself when it first computes is not counted as a session's.
        await (await _full_session(peers, source, positions)).close()
        await asyncio.sleep(TIDY_SECONDS)
        ready = _resident(pid)
        links = [await _full_session(peers, source, positions) for _ in range(SESSIONS)]
        busy = _resident(pid)
        for link in links:
            await link.close()
        await asyncio.sleep(TIDY_SECONDS)
        after = _resident(pid)
        await peers.close()
    table = Table("", "MiB", title=f"Resident memory of a node, {source.num_layers} layers, fp32")
    rows = {
        "an empty torch process": empty,
        "a node that has served": ready,
        "its weights": weights,
        "over both (at most 200)": ready - empty - weights,
        f"a session of {positions} positions reserves": reservation,
        f"{SESSIONS} full sessions took, each": (busy - ready) // SESSIONS,
        "left after closing them": after - ready,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / MIB:.1f}")
    return table


async def _full_session(peers: Swarm, source: ModelSource, positions: int) -> LaneLink:
    link = await LaneLink(LaneId(1), await peers.chain(source.shape), ChoiceRule(SamplingParams()), positions).opened()
    step = 256
    for start in range(0, positions, step):
        ids = range(start + 1, min(start + step, positions) + 1)
        last = ids[-1]
        nodes = tuple(FrameNode(NodeId(i), NodeId(i - 1), TokenId(i % 1000), wants_verdict=i == last) for i in ids)
        link.send(Frame(nodes, NodeId(last)))
    events: asyncio.Queue[object] = asyncio.Queue()
    serving = asyncio.create_task(link.serve(events.put_nowait))
    for _ in range(0, positions, step):
        await events.get()
    serving.cancel()
    await asyncio.wait([serving])
    return link


def _empty_torch() -> int:
    code = "import torch; torch.ones(8, 8) @ torch.ones(8, 8); print(open('/proc/self/statm').read().split()[1])"
    pages = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(pages) * 4096


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _help() -> Table:
    table = Table("command", "seconds", title="--help, median of 7 (at most 0.3)")
    for command in ("dsd_client", "dsd_node"):
        table.add_row(command.replace("_", "-"), f"{statistics.median(_seconds(command) for _ in range(7)):.2f}")
    return table


def _seconds(module: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, check=True)
    return time.perf_counter() - started


async def _chat() -> Table:
    """From the command to its answer to /model, which it gives once it can be asked."""
    table = Table("", "seconds", title="dsd-client chat, the embedded pair, median of 5 (at most 5)")
    async with LocalSwarm(str(embedded.TARGET), spans(8, 2), threads=1) as swarm:
        joins = [word for join in swarm.joins for word in ("--join", join)]
        command = [sys.executable, "-m", "dsd_client", "chat", *joins]
        taken = [await asyncio.to_thread(_until_answered, command) for _ in range(5)]
    wall, processor = (statistics.median(each) for each in zip(*taken, strict=True))
    table.add_row("ready", f"{wall:.2f}")
    table.add_row("processor time until then", f"{processor:.2f}")
    return table


def _until_answered(command: Sequence[str]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    pipe = subprocess.PIPE
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=pipe, stderr=pipe, stdout=subprocess.DEVNULL, text=True) as chat:
        assert chat.stdin is not None
        assert chat.stderr is not None
        chat.stdin.write("/model\n")
        chat.stdin.flush()
        while "embedded" not in (line := chat.stderr.readline()):
            assert line, "the chat has ended"
        taken = time.perf_counter() - started, processor_seconds(chat.pid)
        chat.stdin.close()
    return taken


if __name__ == "__main__":
    asyncio.run(main())
