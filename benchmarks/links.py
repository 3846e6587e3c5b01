"""Links below gRPC: TCP on loopback that takes as long as a longer way, and breaks as one does.

    dialler --> 127.0.0.1:P  --- delay, each way --->  the node that announces 127.0.0.1:P

Whoever dials what a node announces goes through its link, so each hop of a lane takes the delay: to the first stage, from
stage to stage, and back from the last one to the client. Bandwidth is not limited.

    python -m benchmarks.links          how exact the delays are
"""

import argparse
import asyncio
import contextlib
import selectors
import socket
import statistics
import struct
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum

from rich.console import Console
from rich.table import Table

from dsd_core.network.address import Address

HELD_BYTES = 16 << 20
"""What one way of a connection may hold; a sender that goes on is not read until it is less."""


class Way(Enum):
    """Which way a chunk goes: from who dials to `target`, or back."""

    THERE = 0
    BACK = 1


class Link:
    """A listener on loopback that relays to `target`. Use `async with`, or `open` and `close`.

    `delay` is that of one way, in seconds; it may be changed while bytes are under way, and they stay in order.
    """

    def __init__(self, target: Address | None = None, *, delay: float = 0.0) -> None:
        self.target = target
        """May be set after `open`, before anybody dials."""
        self.delay = delay
        self.address: Address
        self.dialled = 0
        """How many connections were made through it."""
        self.stalled = False
        self.swallowing: frozenset[Way] = frozenset()
        self.corrupting = 0
        """How many of the next chunks get a bit flipped."""
        self._ends: set[_End] = set()
        self._dialling: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Link":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, port: int = 0) -> None:
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", port)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Break every connection, and refuse new ones."""
        self._stop_listening()
        for end in list(self._ends):
            end.abort()
        for dialling in self._dialling:
            dialling.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)

    # -- troubles ------------------------------------------------------------------------------------------------------

    def stall(self) -> None:
        """Hold everything back, as a full buffer on the way does; `resume` lets it go, whole and in order."""
        self.stalled = True

    def black_hole(self, *ways: Way) -> None:
        """Swallow what goes these ways, or everything, as a partition does: neither side is told."""
        self.swallowing = frozenset(ways or Way)

    def resume(self) -> None:
        """End a stall or a partition. What was swallowed stays lost, so the connections of that time are of no more use."""
        self.stalled = False
        self.swallowing = frozenset()
        for end in self._ends:
            end.release()

    def corrupt(self, chunks: int = 1) -> None:
        """Flip a bit of each of the next chunks."""
        self.corrupting += chunks

    def reset(self) -> None:
        """Break every connection with RST. New ones are welcome."""
        for end in list(self._ends):
            end.reset()

    def cut(self) -> None:
        """Break every connection and refuse new ones, until `mend`."""
        self._stop_listening()
        self.reset()

    async def mend(self) -> None:
        """Listen again, where it was."""
        await self.open(self.address.port)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _accept(self) -> "_End":
        near, far = _End(self, Way.THERE), _End(self, Way.BACK)
        near.other, far.other = far, near
        near.on_open = lambda: self._dial(near, far)
        return near

    def _dial(self, near: "_End", far: "_End") -> None:
        dialling = asyncio.create_task(self._connect(near, far))
        self._dialling.add(dialling)
        dialling.add_done_callback(self._dialling.discard)

    async def _connect(self, near: "_End", far: "_End") -> None:
        assert self.target is not None, "a link leads somewhere before it is dialled"
        self.dialled += 1
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, self.target.host, self.target.port)
        except OSError:
            near.reset()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def entered(self, end: "_End") -> None:
        self._ends.add(end)

    def left(self, end: "_End") -> None:
        self._ends.discard(end)

    def delay_of_chunk(self) -> float:
        """Seconds, of the next one."""
        return self.delay

    def on_the_way(self, data: bytes, way: Way) -> bytes:
        """What becomes of a chunk."""
        if way in self.swallowing:
            return b""
        if self.corrupting:
            self.corrupting -= 1
            return data[:-1] + bytes([data[-1] ^ 1])
        return data


class _End(asyncio.Protocol):
    """One end of a relayed connection: what is read here, the other end writes when it is due."""

    def __init__(self, link: Link, way: Way) -> None:
        self.other: _End
        self._way = way
        self.on_open = self.release
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._held: deque[tuple[float, bytes | None]] = deque()
        """Chunks and when each is due; None is the end of the stream."""
        self._held_bytes = 0
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = False
        """The other side of this transport does not read what is written to it."""

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        if self._transport is not None:
            handle = self._transport.get_extra_info("socket")
            # Not to linger is to break with RST.
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._link.entered(self)
        self.on_open()
        self.other.release()

    def data_received(self, data: bytes) -> None:
        self._hold(self._link.on_the_way(data, self._way))

    def eof_received(self) -> bool:
        self._hold(None)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._link.left(self)
        if self._timer is not None:
            self._timer.cancel()
        if error is not None or self._held:
            self.other.reset()
        else:
            self.other.abort()

    def pause_writing(self) -> None:
        self._blocked = True
        self.other.choke()

    def resume_writing(self) -> None:
        self._blocked = False
        self.other.choke()

    def choke(self) -> None:
        """Read only while there is somewhere to put it."""
        if self._transport is None or self._transport.is_closing():
            return
        if self.other._blocked or self._held_bytes > HELD_BYTES:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def release(self) -> None:
        """Pass on what is due, and come back for the rest."""
        now = self._loop.time()
        while self._held and self._held[0][0] <= now and self._passes:
            self._pass_on(self._held.popleft()[1])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._held and self._passes:
            self._timer = self._loop.call_at(self._held[0][0], self.release)

    @property
    def _passes(self) -> bool:
        return not self._link.stalled and self.other._transport is not None

    def _hold(self, data: bytes | None) -> None:
        self._last_due = max(self._last_due, self._loop.time() + self._link.delay_of_chunk())
        self._held.append((self._last_due, data))
        self._held_bytes += len(data or b"")
        self.choke()
        if len(self._held) == 1:
            self.release()

    def _pass_on(self, data: bytes | None) -> None:
        transport = self.other._transport
        assert transport is not None
        if data is None:
            with contextlib.suppress(OSError):  # it is gone already, and says so itself
                transport.write_eof()
            return
        self._held_bytes -= len(data)
        transport.write(data)
        self.choke()


def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are exact to a tenth of a millisecond: epoll, and uvloop, count in whole ones."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


# -- how exact ---------------------------------------------------------------------------------------------------------


async def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.link_process import LinkProcess

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args(arguments)
    table = Table("delay ms", "p50 ms over it", "p95", title=f"One way over a link, {given.rounds} rounds of 512 bytes")
    async with LinkProcess(1) as links:
        target = links.targets[0]
        async with await asyncio.start_server(_echo, target.host, target.port):
            for delay in (0.0, 2.0, 10.0, 50.0):
                await links.set_delay(delay / 1e3)
                over = await _over(links.addresses[0], given.rounds, delay)
                table.add_row(f"{delay:g}", f"{statistics.median(over):.2f}", f"{statistics.quantiles(over, n=20)[18]:.2f}")
    Console().print(table)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


async def _over(address: Address, rounds: int, delay: float) -> list[float]:
    """What one way takes beyond the delay, ms, in each round."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    over = []
    for _ in range(rounds):
        started = time.perf_counter()
        writer.write(bytes(512))
        await reader.readexactly(512)
        over.append((time.perf_counter() - started) * 1e3 / 2 - delay)
    writer.close()
    await writer.wait_closed()
    return over


if __name__ == "__main__":
    asyncio.run(main())
