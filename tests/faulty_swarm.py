"""Node processes that die, freeze and come back, and answers that are watched meanwhile."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dsd_client import Client, Result
from dsd_client.local_swarm import LocalNode, LocalSwarm

PROMPT = [5, 6, 7, 40, 41]


class FaultySwarm(LocalSwarm):
    """Two chains of two stages. A node comes back with its key and its address."""

    def __init__(self, model: str) -> None:
        super().__init__(model, ["0:2", "2:4"] * 2, threads=1)
        self._options: list[tuple[str, ...]] = [()] * 4

    def serving(self, route: tuple[str, ...]) -> list[LocalNode]:
        """The nodes of a route, in its order."""
        return [next(node for node in self.nodes if node.address == address) for address in route]

    async def kill(self, node: LocalNode) -> None:
        os.kill(node.pid, signal.SIGKILL)
        await node.process.wait()

    async def restart(self, node: LocalNode) -> None:
        """Returns when the node is ready again."""
        index = self.nodes.index(node)
        self._options[index] = ("--listen", node.address)
        node.log.close()
        self.nodes[index] = await self._start(index, self._spans[index])


@dataclass
class Watched:
    """An answer, and the longest time that its reader waited after the fault."""

    result: Result
    stall_seconds: float


@dataclass
class Reader:
    """Reads answers as they come, at most a chunk every `pace_seconds`."""

    client: Client
    pace_seconds: float = 0.0
    route: tuple[str, ...] = field(default=())
    """Of the answer that is being read; empty between answers."""

    async def read(
        self, tokens: int, *, fault: Callable[[], Awaitable[None]] | None = None, at_chunk: int = 0, **options: object
    ) -> Watched:
        stall = 0.0
        async with self.client.conversation(positions=len(PROMPT) + tokens, **options) as answers:  # type: ignore[misc]
            chunks, heard_at = 0, time.monotonic()
            async for chunk in answers.ask(PROMPT, max_new_tokens=tokens):
                if fault is None or chunks >= at_chunk:
                    stall = max(stall, time.monotonic() - heard_at)
                chunks, self.route = chunks + 1, chunk.route
                if fault is not None and chunks == at_chunk:
                    await fault()
                await asyncio.sleep(self.pace_seconds)
                heard_at = time.monotonic()
            self.route = ()
            assert fault is None or chunks > at_chunk, "the fault came too late to hit anything"
            return Watched(answers.result, stall)
