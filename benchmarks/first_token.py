"""Time to the first token: the swarm's against transformers' own, on one machine, from the call to the token in hand.

    python -m benchmarks first_token [--model DIR] [--nodes N ...] [--words N ...] [--repeats N]

All of them compute on one thread, and are asked in turns: a noisy machine is noisy for all. The swarm's time includes finding
the chain and opening a session.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing

from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.reference import Reference
from dsd_client.client import Client
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_core import embedded
from dsd_core.model.source import resolve

STORY = "Question: A farmer has 12 cows and buys 7 more. Each cow gives 3 litres of milk a day. How much milk is that? "
REFERENCE = "transformers"

FirstToken = Callable[[str], Awaitable[float]]
"""Asks a prompt; seconds to the first token."""


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(embedded.TARGET))
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--words", type=int, nargs="+", default=[24, 240], help="of the prompts")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args(arguments)
    async with AsyncExitStack() as stack:
        askers = {REFERENCE: _transformers(given.model)}
        for count in given.nodes:
            askers[f"{count} node{'s' * (count > 1)}"] = await _swarm(stack, given.model, count)
        for words in given.words:
            _print(words, await _in_turns(askers, words, given.repeats))


async def _in_turns(askers: dict[str, FirstToken], words: int, repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for repeat in range(-1, repeats):
        for name, first_token in askers.items():
            taken = await first_token(_prompt(words, repeat))
            if repeat >= 0:  # the first warms all of them up
                seconds[name].append(taken)
    return seconds


def _prompt(words: int, repeat: int) -> str:
    return " ".join([f"{repeat + 2}.", *(STORY * (1 + words // 16)).split()[:words]])


def _transformers(model: str) -> FirstToken:
    reference = Reference(resolve(model))
    return lambda prompt: asyncio.to_thread(reference.seconds, prompt, 1)


async def _swarm(stack: AsyncExitStack, model: str, nodes: int) -> FirstToken:
    swarm = await stack.enter_async_context(LocalSwarm(model, spans(resolve(model).num_layers, nodes), threads=1))
    client = await stack.enter_async_context(Client(swarm.joins, model))

    async def first_token(prompt: str) -> float:
        started = time.perf_counter()
        async with aclosing(client.stream(prompt, max_new_tokens=32)) as chunks:
            await anext(chunks)
            return time.perf_counter() - started

    return first_token


def _print(words: int, seconds: dict[str, list[float]]) -> None:
    reference = statistics.median(seconds[REFERENCE])
    table = Table("", "first token p50, ms", "of transformers (goal 1.2)", title=f"a prompt of {words} words")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        table.add_row(name, f"{1e3 * median:.1f}", f"{median / reference:.2f}")
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
