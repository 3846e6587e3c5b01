"""Ports for servers that are started later."""

import random
import socket

BELOW_OUTGOING = range(20_000, 32_000)
"""A system gives higher ones to outgoing connections: whatever runs beside a test could have its port before it listens."""


def free_port() -> int:
    """One that nobody listens on. Drawn anew each time, as other tests draw beside this one."""
    while True:
        port = random.SystemRandom().choice(BELOW_OUTGOING)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
