"""A program that opens connections and says nothing, half of them before TLS and half after it, until all have been closed.

    python -m tests.faults.silent HOST:PORT CONNECTIONS DIRECTORY

It prints how many seconds each was let be: a list of those without TLS, and one of those with it.
"""

import asyncio
import json
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path

from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.leaf import client_leaf
from tests.network_trust.conftest import tls_context

AT_ONCE = 64
"""Handshakes under way, so that none waits so long for its turn that it is closed before it is done."""


class Silence:
    """Connections to one place, and how long each was let be."""

    def __init__(self, place: Address, context: ssl.SSLContext | None) -> None:
        self.seconds: list[float] = []
        self._place = place
        self._context = context
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def keep(self, connections: int) -> None:
        await asyncio.gather(*(self._keep_one() for _ in range(connections)))

    async def _keep_one(self) -> None:
        async with self._turn:
            reader, writer = await asyncio.open_connection(self._place.host, self._place.port, ssl=self._context)
        since = time.monotonic()
        try:
            with suppress(ConnectionError, ssl.SSLError):
                while await reader.read(1 << 16):  # what a server says of itself first
                    pass
            self.seconds.append(time.monotonic() - since)
        finally:
            writer.transport.abort()


async def main(place: str, connections: str, directory: str) -> None:
    context = tls_context(ssl.PROTOCOL_TLS_CLIENT, client_leaf(Identity.ephemeral()), Path(directory))
    silences = [Silence(Address.parse(place), None), Silence(Address.parse(place), context)]
    await asyncio.gather(*(silence.keep(int(connections)) for silence in silences))
    print(json.dumps([silence.seconds for silence in silences]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
