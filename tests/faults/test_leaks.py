"""R10 and R11 of the promises: what was abandoned is given back, and nothing grows."""

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dsd_client import Client
from dsd_client.local_swarm import LocalNode, LocalSwarm
from dsd_core.errors import OutOfCapacity
from tests.conftest import TinyModel, eventually
from tests.faults import holder
from tests.faulty_swarm import PROMPT

SESSIONS = 500
AT_ONCE = 10
WARM_SESSIONS = 100
TOKENS = 16
MEMORY_GROWTH = 1.05


def _open_files(node: LocalNode) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))


def _resident_bytes(node: LocalNode) -> int:
    pages = int(Path(f"/proc/{node.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _threads(node: LocalNode) -> int:
    return len(os.listdir(f"/proc/{node.pid}/task"))


async def test_nothing_leaks(target: TinyModel) -> None:
    """R10, in small: hundreds of sessions, half of them abandoned amid an answer."""
    reference = target.greedy(PROMPT, TOKENS)
    abandoned = 0

    async def use(client: Client, number: int) -> None:
        nonlocal abandoned
        tokens: list[int] = []
        async for chunk in client.stream(PROMPT, max_new_tokens=TOKENS):
            tokens += chunk.token_ids
            if number % 2:
                abandoned += 1
                return
        reference.assert_same(tokens)

    async def use_many(client: Client, sessions: int) -> None:
        for first in range(0, sessions, AT_ONCE):
            await asyncio.gather(*(use(client, number) for number in range(first, first + AT_ONCE)))

    async with (
        LocalSwarm(str(target), ["0:2"], threads=1) as first,
        LocalSwarm(str(target), ["2:4"], threads=1, options=[["--join", *first.joins]]) as last,
    ):
        nodes = [*first.nodes, *last.nodes]
        async with Client(first.joins, str(target), "ngram") as client:
            await use_many(client, WARM_SESSIONS)
            await _all_is_free(client)
            tasks = len(asyncio.all_tasks())
            files, threads, resident = ([of(node) for node in nodes] for of in (_open_files, _threads, _resident_bytes))
            await use_many(client, SESSIONS)
            await _all_is_free(client)
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        for node, before in zip(nodes, resident, strict=True):
            print(f"resident: {before >> 10} KiB, then {_resident_bytes(node) >> 10} KiB")
            assert _resident_bytes(node) <= MEMORY_GROWTH * before
        assert [_threads(node) for node in nodes] == threads
        assert all(_open_files(node) <= before for node, before in zip(nodes, files, strict=True))
        assert abandoned == (WARM_SESSIONS + SESSIONS) // 2


async def _all_is_free(client: Client) -> None:
    """Returns when every node says so in its record, which it renews now and then."""
    async with asyncio.timeout(60):
        while True:
            peers = await client.peers()
            if all(peer.total_positions and peer.free_positions == peer.total_positions for peer in peers):
                return
            await asyncio.sleep(0.5)


@pytest.mark.parametrize(("end", "promised_seconds"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, 10.0)])
async def test_what_a_lost_client_held_is_free_again(
    target: TinyModel, tmp_path: Path, end: signal.Signals, promised_seconds: float
) -> None:
    """R11: a client takes all that a peer may hold, and is killed or frozen. Another of the same key takes it all again."""
    async with LocalSwarm(str(target), ["0:4"], threads=1) as swarm:
        [join] = swarm.joins
        # A client of its own key takes the most that a peer may hold; that of the same key has nothing left.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", holder.__name__, join, str(target), str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            held = int(await process.stdout.readline())
            assert held > 1
            async with Client([join], str(target), "none", data_dir=tmp_path, timeout=0.01) as client:
                with pytest.raises(OutOfCapacity):
                    await _hold(client, 1)
                process.send_signal(end)
                seconds = await _seconds_until_free(client, held)
            print(f"{held} sessions free after {seconds:.2f} s")
            assert seconds <= promised_seconds
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _hold(client: Client, sessions: int) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(sessions):
            await stack.enter_async_context(client.conversation(positions=holder.TOKENS, speculation="off"))


async def _seconds_until_free(client: Client, sessions: int) -> float:
    since = time.monotonic()
    while True:
        free_at = time.monotonic()
        try:
            await _hold(client, sessions)
        except OutOfCapacity:
            await asyncio.sleep(0.05)
        else:
            return free_at - since
