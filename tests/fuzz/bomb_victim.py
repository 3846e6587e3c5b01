"""One end of a connection, in a process of its own, so that its memory can be measured: `serve`, or `call HOST:PORT`.

Prints its port, and at the end of its standard input by how many bytes its resident memory grew at most.
"""

import asyncio
import sys
from pathlib import Path

import grpc
import grpc.aio

from dsd_core.network.channels import CLIENT_OPTIONS, SERVER_OPTIONS

METHOD = "/dsd.test/Echo"


def memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


async def echo(request: bytes, context: object) -> bytes:
    return request


async def serve() -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dsd.test", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CLIENT_OPTIONS) as channel:
        await channel.unary_unary(METHOD)(bytes(1 << 20))  # what an ordinary message costs is not the bomb's doing
    before = memory("VmRSS")
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    print(memory("VmHWM") - before, flush=True)


async def call(address: str) -> None:
    async with grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        await channel.unary_unary(METHOD)(b"small")
        before = memory("VmRSS")
        try:
            await channel.unary_unary(METHOD)(b"bomb", timeout=20)
            print("answered", flush=True)
        except grpc.aio.AioRpcError as failure:
            print(failure.code().name, flush=True)
    print(memory("VmHWM") - before, flush=True)


if __name__ == "__main__":
    asyncio.run(serve() if sys.argv[1] == "serve" else call(sys.argv[2]))
