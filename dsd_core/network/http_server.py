"""An HTTP server that leaves signals and logs to the program it is part of."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from dsd_core.errors import AddressInUse


class HttpServer(uvicorn.Server):
    """`serve([listen(host, port)])` until `should_exit`; connections then have `grace_seconds` to end."""

    def __init__(self, app: Any, *, grace_seconds: int) -> None:
        quiet: dict[str, Any] = {"log_config": None, "log_level": "warning", "access_log": False}
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=grace_seconds, **quiet))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(host: str, port: int) -> socket.socket:
    """Raises AddressInUse."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError):
        raise AddressInUse(
            f"cannot listen on {host} port {port}; another program does, or it is not this machine's: try another"
        ) from None
