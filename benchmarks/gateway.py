"""What the gateway adds to the SDK: time to the first token, and tokens/s, of the same prompts on the same nodes.

    python -m benchmarks.gateway [--tokens N] [--repeats N]

Both are asked in turns; the gateway is a process of its own, asked by OpenAI's client over loopback.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dsd_client.client import Client
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_core import embedded

LAYERS, NODES = 8, 2
PROMPT = "Question: A farmer has {} cows and buys 7 more. Each cow gives 3 litres of milk. How much milk is that?\nAnswer:"


@dataclass(frozen=True, slots=True)
class Answer:
    """How one answer came, by the clock of whoever asked."""

    first_seconds: float
    tokens_per_second: float


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args(arguments)
    answers: dict[str, list[Answer]] = {"SDK": [], "gateway": []}
    async with (
        LocalSwarm(str(embedded.TARGET), spans(LAYERS, NODES), threads=1) as swarm,
        Client(swarm.joins) as client,
        _gateway(swarm.joins) as openai,
    ):
        for repeat in range(-1, given.repeats):
            prompt = PROMPT.format(12 + repeat)
            sdk, gateway = await _of_sdk(client, prompt, given.tokens), await _of_gateway(openai, prompt, given.tokens)
            if repeat >= 0:  # the first warms both up
                answers["SDK"].append(sdk)
                answers["gateway"].append(gateway)
    _print(answers)


@asynccontextmanager
async def _gateway(joins: Sequence[str]) -> AsyncIterator[AsyncOpenAI]:
    options = [word for join in joins for word in ("--join", join)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dsd_client", "serve", *options, "--port", "0", "--json", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url = json.loads(await process.stdout.readline())["url"]
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as openai:
            yield openai
    finally:
        process.terminate()
        await process.wait()


async def _of_sdk(client: Client, prompt: str, tokens: int) -> Answer:
    started, first, count = time.perf_counter(), 0.0, 0
    async for chunk in client.stream(prompt, max_new_tokens=tokens):
        first = first or time.perf_counter()
        count += len(chunk.tokens)
    return _answer(started, first, count)


async def _of_gateway(openai: AsyncOpenAI, prompt: str, tokens: int) -> Answer:
    started, first, count = time.perf_counter(), 0.0, 0
    stream = await openai.completions.create(
        model="dsd-embedded", prompt=prompt, max_tokens=tokens, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        first = first or time.perf_counter()
        count = chunk.usage.completion_tokens if chunk.usage else count
    return _answer(started, first, count)


def _answer(started: float, first: float, tokens: int) -> Answer:
    return Answer(first - started, tokens / (time.perf_counter() - started))


def _print(answers: dict[str, list[Answer]]) -> None:
    table = Table("", "first token p50, ms", "tokens/s p50")
    firsts = {name: 1000 * statistics.median(answer.first_seconds for answer in of) for name, of in answers.items()}
    rates = {name: statistics.median(answer.tokens_per_second for answer in of) for name, of in answers.items()}
    for name in answers:
        table.add_row(name, f"{firsts[name]:.1f}", f"{rates[name]:.1f}")
    added, lost = firsts["gateway"] - firsts["SDK"], 1 - rates["gateway"] / rates["SDK"]
    table.add_row("the gateway adds (goal)", f"{added:+.1f} (5)", f"{-lost:+.1%} (-3%)")
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
