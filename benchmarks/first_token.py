"""Time to the first token: the swarm's against transformers' own, on one machine, from the call to the token in hand.

    python -m benchmarks first_token [--model DIR] [--nodes N ...] [--words N ...] [--repeats N]

Each swarm is alone with transformers, on one thread each, and they are asked in turns: a noisy machine is noisy for both. The
swarm's time includes finding the chain and opening a session.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing

from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.reference import Reference
from dsd_client.client import Client
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_core import embedded
from dsd_core.model.source import resolve

STORY = "Question: A farmer has 12 cows and buys 7 more. Each cow gives 3 litres of milk a day. How much milk is that? "

Pair = tuple[float, float]
"""Seconds to the first token, the median: transformers', and the swarm's."""


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(embedded.TARGET))
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--words", type=int, nargs="+", default=[24, 240], help="of the prompts")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args(arguments)
    reference = Reference(resolve(given.model))
    taken = {count: await _beside(reference, given.model, count, given.words, given.repeats) for count in given.nodes}
    for words in given.words:
        _print(words, {count: by_words[words] for count, by_words in taken.items()})


async def _beside(reference: Reference, model: str, nodes: int, words: Sequence[int], repeats: int) -> dict[int, Pair]:
    """By words of the prompt: what transformers and a swarm of so many nodes took, seconds."""
    layers = spans(resolve(model).num_layers, nodes)
    async with LocalSwarm(model, layers, threads=1) as swarm, Client(swarm.joins, model) as client:
        return {count: await _in_turns(reference, client, count, repeats) for count in words}


async def _in_turns(reference: Reference, client: Client, words: int, repeats: int) -> Pair:
    taken: list[tuple[float, float]] = []
    for repeat in range(-1, repeats):
        prompt = _prompt(words, repeat)
        taken.append((await asyncio.to_thread(reference.seconds, prompt, 1), await _first_token(client, prompt)))
    alone, swarm = zip(*taken[1:], strict=True)  # the first warms both up
    return statistics.median(alone), statistics.median(swarm)


async def _first_token(client: Client, prompt: str) -> float:
    started = time.perf_counter()
    async with aclosing(client.stream(prompt, max_new_tokens=32)) as chunks:
        await anext(chunks)
        return time.perf_counter() - started


def _prompt(words: int, repeat: int) -> str:
    return " ".join([f"{repeat + 2}.", *(STORY * (1 + words // 16)).split()[:words]])


def _print(words: int, taken: Mapping[int, Pair]) -> None:
    columns = ("nodes", "transformers p50, ms", "first token p50, ms", "of transformers (goal 1.2)")
    table = Table(*columns, title=f"a prompt of {words} words")
    for nodes, (alone, swarm) in taken.items():
        table.add_row(str(nodes), f"{1e3 * alone:.1f}", f"{1e3 * swarm:.1f}", f"{swarm / alone:.2f}")
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
