"""What the swarm itself costs: nodes on loopback against transformers' own generate, on one model, in one run.

    python -m benchmarks.loopback [--model DIR] [--tokens N] [--repeats N]

Every row is measured in turns with the others, `--repeats` times, and given as the median: a noisy machine is noisy for all.
All of them compute on one thread.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.reference import Reference
from dsd_client.client import Client
from dsd_client.lane_link import LaneEvent, LaneLink
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_client.swarm import Swarm
from dsd_core import embedded
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.events import VerdictsArrived
from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.ids import LaneId, NodeId, TokenId
from dsd_core.model.source import ModelSource, resolve
from dsd_core.network.seeds import Seeds
from dsd_core.network.transport import Secure

PROMPT = "Question: A farmer has 12 cows and buys 7 more. Each cow gives 3 litres of milk. How much milk is that?\nAnswer:"
NODE_COUNTS = (1, 4)


@dataclass(frozen=True, slots=True)
class Transport:
    """Per hop, over many rounds of one node: what is left of a round without the stages' own time, over N + 1 hops."""

    p50_ms: float
    p90_ms: float
    sent_bytes: float
    received_bytes: float


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(embedded.TARGET))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(arguments)
    source = resolve(given.model)
    reference = Reference(source)
    reference.seconds(PROMPT, given.tokens)  # warms it up
    rates: dict[str, list[float]] = {"transformers generate": []}
    transports = {}
    swarms = {count: LocalSwarm(given.model, spans(source.num_layers, count), threads=1) for count in NODE_COUNTS}
    async with swarms[1], swarms[4]:
        for _ in range(given.repeats):
            seconds = await asyncio.to_thread(reference.seconds, PROMPT, given.tokens)
            rates["transformers generate"].append(given.tokens / seconds)
            for count, swarm in swarms.items():
                name = f"{count} node{'s' * (count > 1)}, off"
                rates.setdefault(name, []).append(await _off(swarm, given.model, given.tokens))
        for count, swarm in swarms.items():
            transports[count] = await _transport(swarm, source)
    _print(rates, transports)


async def _off(swarm: LocalSwarm, model: str, tokens: int) -> float:
    """Plain decoding, `tokens` tokens whatever the model says: its end token is only a token here."""
    async with Client(swarm.joins, model, "none") as client:
        prompt = client.target.tokens(PROMPT)
        async with client.conversation(positions=len(prompt) + tokens, sampling=SamplingParams(), speculation="off") as answers:
            object.__setattr__(client.target, "end_tokens", frozenset())
            async for _ in answers.ask(prompt, max_new_tokens=tokens):
                pass
            return answers.result.stats.tokens_per_second


async def _transport(swarm: LocalSwarm, source: ModelSource, rounds: int = 300) -> Transport:
    peers = Swarm(Seeds.parse(swarm.joins), Secure.kept_in(None))
    link = await LaneLink(LaneId(1), await peers.chain(source.shape), ChoiceRule(SamplingParams()), rounds + 1).opened()
    events: asyncio.Queue[LaneEvent] = asyncio.Queue()
    serving = asyncio.create_task(link.serve(events.put_nowait))
    times = []
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        link.send(Frame((FrameNode(NodeId(number), NodeId(number - 1), TokenId(7)),), NodeId(number)))
        answered = await events.get()
        assert isinstance(answered, VerdictsArrived)
        times.append((time.perf_counter() - started - answered.time.total) / (len(link.route) + 1))
    serving.cancel()
    await asyncio.wait([serving])
    await link.close()
    await peers.close()
    deciles = statistics.quantiles(times, n=10)
    return Transport(deciles[4] * 1e3, deciles[8] * 1e3, link.bytes_sent / rounds, link.bytes_received / rounds)


def _print(rates: dict[str, list[float]], transports: dict[int, Transport]) -> None:
    reference = statistics.median(rates["transformers generate"])
    speed = Table("fp32, one thread", "tokens/s", "of generate", title="Plain decoding on loopback")
    for name, values in rates.items():
        speed.add_row(name, f"{statistics.median(values):.1f}", f"{statistics.median(values) / reference:.2f}")
    hops = Table("nodes", "p50 ms", "p90 ms", "bytes a node sent", "bytes a verdict", title="Transport a hop")
    for count, hop in transports.items():
        row = (f"{hop.p50_ms:.2f}", f"{hop.p90_ms:.2f}", f"{hop.sent_bytes:.0f}", f"{hop.received_bytes:.0f}")
        hops.add_row(str(count), *row)
    console = Console()
    console.print(speed, hops)


if __name__ == "__main__":
    asyncio.run(main())
