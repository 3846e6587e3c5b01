"""How gRPC is set up here. Each value was measured; several names are silently ignored when misspelt."""

import asyncio
from contextlib import suppress

import grpc

Options = list[tuple[str, int]]

# Without ping_timeout_ms a frozen peer is noticed after a minute, whatever keepalive_timeout_ms says.
_ALIVE: Options = [
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]

MAX_MESSAGE_BYTES = 8 << 20

SERVER_OPTIONS: Options = [
    *_ALIVE,
    # Or a peer's pings are answered with GOAWAY "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # No compression: a small frame must not unfold into a large one.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.server_handshake_timeout_ms", 5_000),
    # Of one connection; a peer may make several, so quotas.py counts its calls as well.
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.max_metadata_size", 16 << 10),
    # Two nodes on one port would otherwise both start, and share its connections.
    ("grpc.so_reuseport", 0),
]

CLIENT_OPTIONS: Options = [
    *_ALIVE,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A proxy from the environment would be asked even for loopback addresses.
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
]

NOTICE_SECONDS = 0.1
_ON_THE_WAY = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)


async def settled(channel: grpc.aio.Channel, seconds: float) -> None:
    """Once there is a connection, or none could be made in that time. A call that is begun then takes as long as the way and
    the answer, and not as long as shaking hands."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (state := channel.get_state(try_to_connect=True)) in _ON_THE_WAY:
                await channel.wait_for_state_change(state)


async def break_noticed(channel: grpc.aio.Channel) -> None:
    """To be awaited between a call whose connection broke and the next: a call hears of that before its channel does,
    which would give the next one the same broken connection."""
    with suppress(TimeoutError):
        async with asyncio.timeout(NOTICE_SECONDS):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
