"""The gateway behind a socket."""

import asyncio
import ipaddress
import socket

from dsd_client.gateway.app import create_app
from dsd_client.gateway.gateway import Gateway
from dsd_core.errors import UsageError
from dsd_core.network.http_server import HttpServer

GRACE_SECONDS = 5
"""For answers that are under way when the gateway is told to stop."""


def require_key_beyond_loopback(host: str, api_key: str | None) -> None:
    """Raises UsageError: whoever reaches an open gateway can use the swarm in your name."""
    if not api_key and (api_key == "" or not _is_loopback(host)):
        raise UsageError(f"--host {host} can be reached from other machines; set a key with --api-key, or DSD_API_KEY")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(gateway: Gateway, listener: socket.socket) -> None:
    """Serve until cancelled. Then nobody new is let in, and answers under way have a moment to end before they are ended
    with an error that says so."""
    server = HttpServer(create_app(gateway), grace_seconds=2 * GRACE_SECONDS)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        stopping = asyncio.get_running_loop().call_later(GRACE_SECONDS, gateway.stop)
        await serving
        stopping.cancel()
