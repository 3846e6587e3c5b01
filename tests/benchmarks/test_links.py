"""Emulated links: what goes in comes out, in order and later; or not at all, as told."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from benchmarks.link_process import LinkProcess
from benchmarks.links import HELD_BYTES, Link
from dsd_core.network.address import Address


@dataclass
class Line:
    """A connection to an echo over a link."""

    link: Link
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def hear(self, count: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readexactly(count)

    async def is_silent(self) -> bool:
        try:
            async with asyncio.timeout(0.1):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def dial(link: Link) -> Line:
    return Line(link, *await asyncio.open_connection(link.address.host, link.address.port))


@asynccontextmanager
async def line(delay: float = 0.0) -> AsyncIterator[Line]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(echo, "127.0.0.1", 0))
        target = Address(*server.sockets[0].getsockname())
        link = await stack.enter_async_context(Link(target, delay=delay))
        made = await dial(link)
        yield made
        made.writer.close()


async def test_bytes_arrive_whole_in_order_and_not_before_their_time() -> None:
    data = random.Random(1).randbytes(3 << 20)
    async with line(delay=0.05) as made:
        started = time.perf_counter()
        made.say(data)
        assert await made.hear(len(data)) == data
        assert time.perf_counter() - started >= 0.1


async def test_a_shorter_delay_lets_nothing_overtake() -> None:
    async with line(delay=0.2) as made:
        made.say(b"first")
        await asyncio.sleep(0.02)
        made.link.delay = 0.0
        made.say(b"second")
        assert await made.hear(11) == b"firstsecond"


async def test_the_end_of_a_stream_is_passed_on_after_what_came_before() -> None:
    async with line(delay=0.02) as made:
        made.say(b"last")
        made.writer.write_eof()
        assert await made.reader.read() == b"last"


async def test_a_stall_keeps_and_a_black_hole_swallows() -> None:
    async with line() as made:
        made.link.stall()
        made.say(b"kept")
        assert await made.is_silent()
        made.link.resume()
        assert await made.hear(4) == b"kept"
        made.link.black_hole()
        made.say(b"lost")
        assert await made.is_silent()
        made.link.resume()
        made.say(b"told")
        assert await made.hear(4) == b"told"


async def test_a_stalled_link_holds_no_more_than_its_bound() -> None:
    async with line() as made:
        made.link.stall()
        sent = HELD_BYTES * 2
        made.say(bytes(sent))
        assert await made.is_silent()
        held = max(end._held_bytes for end in made.link._ends)
        assert 0 < held < HELD_BYTES + (1 << 20)
        made.link.resume()
        assert await made.hear(sent) == bytes(sent)


async def test_corruption_flips_a_bit_of_one_chunk() -> None:
    async with line() as made:
        made.link.corrupt()
        made.say(b"abcd")
        assert await made.hear(4) == b"abce"
        made.say(b"abcd")
        assert await made.hear(4) == b"abcd"


async def test_a_reset_breaks_what_there_is_and_a_cut_refuses_more() -> None:
    async with line() as made:
        made.say(b"up")
        await made.hear(2)
        made.link.reset()
        with pytest.raises(ConnectionResetError):
            await made.hear(1)
        again = await dial(made.link)
        again.say(b"up")
        await again.hear(2)
        again.link.cut()
        with pytest.raises(ConnectionResetError):
            await again.hear(1)
        with pytest.raises(ConnectionRefusedError):
            await dial(made.link)
        await made.link.mend()
        third = await dial(made.link)
        third.say(b"up")
        assert await third.hear(2) == b"up"
        third.writer.close()


async def test_nobody_at_the_other_end_breaks_the_connection() -> None:
    listener = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = Address(*listener.sockets[0].getsockname())
    listener.close()
    await listener.wait_closed()
    async with Link(target) as link:
        made = await dial(link)
        with pytest.raises(ConnectionResetError):
            await made.hear(1)


async def test_links_in_a_process_of_their_own_take_their_delay() -> None:
    async with LinkProcess(2, delay=0.03) as links:
        target = links.targets[1]
        async with await asyncio.start_server(echo, target.host, target.port):
            reader, writer = await asyncio.open_connection(links.addresses[1].host, links.addresses[1].port)
            started = time.perf_counter()
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert time.perf_counter() - started >= 0.06
            writer.close()
        assert links.node_options[1] == ["--listen", str(target), "--announce", str(links.addresses[1])]
