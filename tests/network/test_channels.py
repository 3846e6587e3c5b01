"""When a channel is settled: how far a peer is must not include shaking hands with it."""

import socket
import time

import grpc.aio
import pytest

from dsd_core.network.channels import CLIENT_OPTIONS, settled
from tests.ports import free_port


async def seconds_to_settle(address: str, bound: float) -> tuple[float, grpc.ChannelConnectivity]:
    async with grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        began = time.monotonic()
        await settled(channel, bound)
        return time.monotonic() - began, channel.get_state()


async def test_a_channel_to_somebody_is_connected() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        _, state = await seconds_to_settle(f"127.0.0.1:{port}", 10)
    finally:
        await server.stop(None)
    assert state is grpc.ChannelConnectivity.READY


async def test_where_nobody_is_that_is_known_at_once() -> None:
    seconds, state = await seconds_to_settle(f"127.0.0.1:{free_port()}", 10)
    assert state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
    assert seconds < 5


@pytest.mark.parametrize("bound", [0.0, 0.1])
async def test_a_peer_that_accepts_and_says_nothing_is_not_waited_for(bound: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the system accepts, and nobody reads
        seconds, state = await seconds_to_settle(f"127.0.0.1:{listener.getsockname()[1]}", bound)
    assert state is not grpc.ChannelConnectivity.READY
    assert seconds < 5
