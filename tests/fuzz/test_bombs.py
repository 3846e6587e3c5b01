"""Bombs fizzle: what is compressed or too large costs neither end the memory that it claims (S8)."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import grpc.aio
import pytest

from tests.fuzz import bomb_victim
from tests.fuzz.bomb_victim import METHOD

ALLOWED = 16 << 20
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
BOMB = bytes(256 << 20)

COMPRESSIONS = pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.NoCompression], ids=str)


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", bomb_victim.__name__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@COMPRESSIONS
async def test_a_bomb_for_a_node(compression: grpc.Compression) -> None:
    with ended(start("serve")) as victim:
        assert victim.stdout is not None
        port = int(await asyncio.to_thread(victim.stdout.readline))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED, compression=compression) as channel:
            echo = channel.unary_unary(METHOD)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await echo(BOMB, timeout=20)
            assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary(METHOD)(b"still there", timeout=5) == b"still there"
        grown = int((await asyncio.to_thread(victim.communicate, ""))[0])
    assert grown <= ALLOWED, f"{grown / (1 << 20):.1f} MiB"


@asynccontextmanager
async def bomber(compression: grpc.Compression) -> AsyncIterator[str]:
    async def answer(request: bytes, context: object) -> bytes:
        return BOMB if request == b"bomb" else request

    server = grpc.aio.server(options=UNLIMITED, compression=compression)
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dsd.test", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@COMPRESSIONS
async def test_a_bomb_for_a_client(compression: grpc.Compression) -> None:
    async with bomber(compression) as address:
        with ended(start("call", address)) as victim:
            said, grown = (await asyncio.to_thread(victim.communicate, ""))[0].split()
    assert said in ("RESOURCE_EXHAUSTED", "INTERNAL", "UNIMPLEMENTED")
    assert int(grown) <= ALLOWED, f"{int(grown) / (1 << 20):.1f} MiB"
