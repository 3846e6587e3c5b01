"""`dsd-node`, but that its event loop stands still from SIGUSR1 to SIGCONT. Its connections stay up: gRPC answers pings.

    python -m tests.blockable_node start --layers 0:2
"""

import signal
import time

BLOCK, UNBLOCK = signal.SIGUSR1, signal.SIGCONT
LOOK_SECONDS = 0.05

_blocked = False


def _block(*_: object) -> None:
    """Runs in the thread of the event loop, and keeps it."""
    global _blocked
    _blocked = True
    while _blocked:
        time.sleep(LOOK_SECONDS)


def _unblock(*_: object) -> None:
    global _blocked
    _blocked = False


if __name__ == "__main__":
    from dsd_node.__main__ import main

    signal.signal(BLOCK, _block)
    signal.signal(UNBLOCK, _unblock)
    main()
