"""What the gateway adds to the SDK: time to the first token, and tokens/s, of the same prompts on the same nodes.

    python -m benchmarks gateway [--tokens N] [--repeats N] [--speculation MODE]

All are asked in turns, each of them first in its turn: over loopback the gateway, a process of its own, by a plain HTTP client
and by OpenAI's, whose own time is no fault of the gateway. A second table is of a gateway whose answers are there already: its
processor time, which a busy machine blurs less. Linux only: processor time is read from /proc.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.processor_time import processor_seconds
from dsd_client.client import Client
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_core import embedded

LAYERS, NODES = 8, 2
PROMPT = "Question: A farmer has {} cows and buys 7 more. Each cow gives 3 litres of milk. How much milk is that?\nAnswer:"
SDK, HTTP, OPENAI = "SDK", "gateway, HTTP", "gateway, OpenAI's client"


@dataclass(frozen=True, slots=True)
class Answer:
    """How one answer came, by the clock of whoever asked."""

    first_seconds: float
    tokens_per_second: float


Asker = Callable[[str, int], Awaitable[Answer]]
"""Asks a prompt for so many tokens."""


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--speculation", default="streaming")
    given = parser.parse_args(arguments)
    async with (
        LocalSwarm(str(embedded.TARGET), spans(LAYERS, NODES), threads=1) as swarm,
        Client(swarm.joins) as client,
        _gateway(swarm.joins, given.speculation) as url,
        _openai(url) as of_openai,
    ):
        askers = {SDK: _of_sdk(client, given.speculation), HTTP: _of_http(url), OPENAI: of_openai}
        _print(await _in_turns(askers, given.tokens, given.repeats))
    await _alone(given.tokens, 10 * given.repeats)


async def _in_turns(askers: dict[str, Asker], tokens: int, repeats: int) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = {name: [] for name in askers}
    names = list(askers)
    for repeat in range(-1, repeats):
        names = [*names[1:], names[0]]
        for name in names:
            answer = await askers[name](PROMPT.format(12 + repeat), tokens)
            if repeat >= 0:  # the first warms all of them up
                answers[name].append(answer)
    return answers


# -- whom to ask ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _gateway(joins: Sequence[str], speculation: str) -> AsyncIterator[str]:
    """Its URL."""
    options = [word for join in joins for word in ("--join", join)]
    options += ["--speculation", speculation, "--port", "0", "--json"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dsd_client", "serve", *options, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        await process.wait()


def _of_sdk(client: Client, speculation: str) -> Asker:
    async def ask(prompt: str, tokens: int) -> Answer:
        started, first, count = time.perf_counter(), 0.0, 0
        async for chunk in client.stream(prompt, max_new_tokens=tokens, speculation=speculation):
            first = first or time.perf_counter()
            count += len(chunk.tokens)
        return _answer(started, first, count)

    return ask


def _of_http(url: str) -> Asker:
    host, _, port = url.removeprefix("http://").partition(":")

    async def ask(prompt: str, tokens: int) -> Answer:
        started, first, count = time.perf_counter(), 0.0, 0
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(_request(prompt, tokens))
        async for line in reader:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter()
                count = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", count)
        writer.close()
        return _answer(started, first, count)

    return ask


def _request(prompt: str, tokens: int) -> bytes:
    asked = {"model": "dsd-embedded", "prompt": prompt, "max_tokens": tokens, "stream": True}
    body = json.dumps({**asked, "stream_options": {"include_usage": True}}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def _openai(url: str) -> AsyncIterator[Asker]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as openai:

        async def ask(prompt: str, tokens: int) -> Answer:
            started, first, count = time.perf_counter(), 0.0, 0
            stream = await openai.completions.create(
                model="dsd-embedded", prompt=prompt, max_tokens=tokens, stream=True, stream_options={"include_usage": True}
            )
            async for chunk in stream:
                first = first or time.perf_counter()
                count = chunk.usage.completion_tokens if chunk.usage else count
            return _answer(started, first, count)

        yield ask


def _answer(started: float, first: float, tokens: int) -> Answer:
    return Answer(first - started, tokens / (time.perf_counter() - started))


# -- the gateway alone -----------------------------------------------------------------------------------------------------


async def _alone(tokens: int, repeats: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.ready_gateway", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ask = _of_http(f"http://127.0.0.1:{int(await process.stdout.readline())}")
        await _cost(process.pid, ask, 1, repeats)  # warms it up
        few, first = await _cost(process.pid, ask, 1, repeats)
        many, _ = await _cost(process.pid, ask, tokens, repeats)
    finally:
        process.stdin.close()
        await process.wait()
    _print_alone(few, (many - few) / max(1, tokens - 1), first)


async def _cost(pid: int, ask: Asker, tokens: int, repeats: int) -> tuple[float, float]:
    """Of an answer: processor seconds, and seconds to the first token at the median."""
    before = processor_seconds(pid)
    answers = [await ask(PROMPT.format(repeat), tokens) for repeat in range(repeats)]
    spent = (processor_seconds(pid) - before) / repeats
    return spent, statistics.median(answer.first_seconds for answer in answers)


# -- tables ----------------------------------------------------------------------------------------------------------------


def _print(answers: dict[str, list[Answer]]) -> None:
    table = Table("", "first token p50, ms", "added (goal 5)", "tokens/s p50", "(goal -3%)", title="On the same nodes")
    firsts = {name: 1000 * statistics.median(answer.first_seconds for answer in of) for name, of in answers.items()}
    rates = {name: statistics.median(answer.tokens_per_second for answer in of) for name, of in answers.items()}
    for name in answers:
        added, change = firsts[name] - firsts[SDK], rates[name] / rates[SDK] - 1
        table.add_row(name, f"{firsts[name]:.1f}", f"{added:+.1f}", f"{rates[name]:.1f}", f"{change:+.1%}")
    Console().print(table)


def _print_alone(request: float, chunk: float, first: float) -> None:
    table = Table("", "", title="A gateway whose answers are there")
    table.add_row("processor time a request of one token, ms", f"{1e3 * request:.2f}")
    table.add_row("processor time for each further chunk, µs", f"{1e6 * chunk:.0f}")
    table.add_row("first token p50, ms", f"{1e3 * first:.2f}")
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
