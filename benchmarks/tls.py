"""What TLS costs: the same answers from nodes with it and from nodes without, in turns, in one run.

    python -m benchmarks.tls [--model DIR] [--tokens N] [--repeats N] [--stages N]

Plain decoding, a frame a token: nothing else makes so many messages of so little. Goal: TLS costs at most 10 % of tokens/s.
"""

import argparse
import asyncio
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack

from rich.console import Console
from rich.table import Table

from dsd_client.client import Client
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_core import embedded
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.model.source import resolve

PROMPT = [100, 200, 300]
SECURE, PLAIN = "mutual TLS", "--insecure-loopback"


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(embedded.TARGET))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--stages", type=int, default=4)
    given = parser.parse_args(arguments)
    rates: dict[str, list[float]] = {SECURE: [], PLAIN: []}
    layers = spans(resolve(given.model).num_layers, given.stages)
    async with AsyncExitStack() as stack:
        clients = {}
        for name in rates:
            options = [["--insecure-loopback"]] * given.stages if name == PLAIN else ()
            swarm = await stack.enter_async_context(LocalSwarm(given.model, layers, threads=1, options=options))
            joins = swarm.addresses if name == PLAIN else swarm.joins
            client = Client(joins, given.model, "none", insecure_loopback=name == PLAIN)
            clients[name] = await stack.enter_async_context(client)
            await _tokens_per_second(clients[name], given.tokens)
        for _ in range(given.repeats):
            for name, client in clients.items():
                rates[name].append(await _tokens_per_second(client, given.tokens))
    _print(rates, given.stages)


async def _tokens_per_second(client: Client, tokens: int) -> float:
    """From the first token on: neither connecting nor the prompt is in it."""
    result = await client.generate(PROMPT, max_new_tokens=tokens, sampling=SamplingParams(), speculation="off")
    return (result.stats.new_tokens - 1) / (result.stats.seconds - result.stats.seconds_to_first_token)


def _print(rates: dict[str, list[float]], stages: int) -> None:
    lost = [1 - secure / plain for secure, plain in zip(rates[SECURE], rates[PLAIN], strict=True)]
    table = Table("", "tokens/s", "slowest", "fastest", title=f"Plain decoding over {stages} nodes on loopback")
    for name, values in rates.items():
        table.add_row(name, f"{statistics.median(values):.1f}", f"{min(values):.1f}", f"{max(values):.1f}")
    console = Console()
    console.print(table)
    console.print(f"TLS costs {statistics.median(lost):.1%} of tokens/s (median of {len(lost)} pairs)")


if __name__ == "__main__":
    asyncio.run(main())
