"""Node processes that die, freeze and come back, and answers that are watched meanwhile."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from benchmarks.links import Link
from dsd_client import Client, Result
from dsd_client.local_swarm import LocalNode, LocalSwarm
from dsd_core.network.address import Address
from tests import blockable_node

PROMPT = [5, 6, 7, 40, 41]


class FaultySwarm(LocalSwarm):
    """Two chains of two stages. A node comes back with its key and its address."""

    def __init__(self, model: str) -> None:
        super().__init__(model, ["0:2", "2:4"] * 2, threads=1, program=blockable_node.__name__)
        self._options: list[tuple[str, ...]] = [()] * 4

    def serving(self, route: tuple[str, ...]) -> list[LocalNode]:
        """The nodes of a route, in its order."""
        return [next(node for node in self.nodes if node.address == address) for address in route]

    def is_up(self, node: LocalNode) -> bool:
        return node.process.returncode is None

    def can_be_spared(self, node: LocalNode) -> bool:
        """Whether it is up, and another that holds the same layers is ready."""
        return self.is_up(node) and any(
            self.is_up(other) and other is not node and other.layers == node.layers for other in self.nodes
        )

    async def kill(self, node: LocalNode) -> None:
        os.kill(node.pid, signal.SIGKILL)
        await node.process.wait()

    async def restart(self, node: LocalNode) -> None:
        """Returns when the node is ready again."""
        index = self.nodes.index(node)
        self._options[index] = self._options[index] or ("--listen", node.address)
        node.log.close()
        self.nodes[index] = await self._start(index, self._spans[index])


class LinkedFaultySwarm(FaultySwarm):
    """The same, each node behind a link: whoever dials it goes through that. The first node is the seed of the others."""

    def __init__(self, model: str, make_link: Callable[[], Link] = Link) -> None:
        super().__init__(model)
        self.links = [make_link() for _ in self._spans]

    async def __aenter__(self) -> "LinkedFaultySwarm":
        for index, link in enumerate(self.links):
            await link.open()
            # Both addresses are known before the node is: it listens where its link does, on another address.
            link.target = Address("127.0.0.2", link.address.port)
            seed = ["--join", str(self.links[0].address)] if index else []
            self._options[index] = ("--listen", str(link.target), "--announce", str(link.address), *seed)
        await super().__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        await super().__aexit__(*details)
        for link in self.links:
            await link.close()

    def link_of(self, node: LocalNode) -> Link:
        return self.links[self.nodes.index(node)]

    def heal(self, node: LocalNode) -> None:
        """What was swallowed is lost, so the connections of that time are broken."""
        self.link_of(node).resume()
        self.link_of(node).reset()


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
