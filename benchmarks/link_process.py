"""Links in a process of their own: what they do takes no time from the client's event loop.

Each node listens on 127.0.0.2 at the port where its link listens on 127.0.0.1, so a node can be told both before it starts.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.links import Link, precise_loop
from dsd_core.network.address import Address

ANSWER_SECONDS = 10.0


class LinkProcess:
    """`count` links. Use `async with`."""

    def __init__(self, count: int, *, delay: float = 0.0) -> None:
        self._count = count
        self._delay = delay
        self._process: asyncio.subprocess.Process
        self.addresses: list[Address] = []
        """Where the links listen: what nodes announce."""

    @property
    def targets(self) -> list[Address]:
        """Where the links lead: what nodes listen on."""
        return [Address("127.0.0.2", address.port) for address in self.addresses]

    @property
    def node_options(self) -> list[list[str]]:
        """For each node, what puts it behind its link."""
        pairs = zip(self.targets, self.addresses, strict=True)
        return [["--listen", str(target), "--announce", str(address)] for target, address in pairs]

    async def __aenter__(self) -> "LinkProcess":
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.link_process", str(self._count),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            self.addresses = [Address("127.0.0.1", port) for port in await self._answer()]
            await self.set_delay(self._delay)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """The process ends when its stdin does, so it does not outlive us however we end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def set_delay(self, seconds: float) -> None:
        """Of one way, from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(seconds).encode() + b"\n")
        assert await self._answer() == seconds

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_SECONDS):
            return json.loads(await self._process.stdout.readline())


async def serve(count: int) -> None:
    """Say the ports, then take a delay a line from stdin until it ends."""
    links = [Link() for _ in range(count)]
    for link in links:
        await link.open()
        link.target = Address("127.0.0.2", link.address.port)
    print(json.dumps([link.address.port for link in links]), flush=True)
    async for line in await _stdin():
        for link in links:
            link.delay = json.loads(line)
        print(json.dumps(links[0].delay), flush=True)
    for link in links:
        await link.close()


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def main(arguments: Sequence[str]) -> None:
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(int(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
