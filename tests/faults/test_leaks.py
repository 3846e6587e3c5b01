"""R11 of the promises: what was abandoned is given back."""

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dsd_client import Client
from dsd_client.local_swarm import LocalSwarm
from dsd_core.errors import OutOfCapacity
from tests.conftest import TinyModel
from tests.faults import holder


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
