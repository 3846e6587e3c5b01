"""How a node ends: it is told once, hands its sessions over, and is gone."""

import asyncio
import logging
import signal
import sys

from dsd_node.health import Health
from dsd_node.service import StageService

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
"""How long clients have to move their sessions elsewhere."""


def stop_signal() -> asyncio.Event:
    """Set at SIGTERM. A second one cancels the task that calls this, as the first does for every other command."""
    told, task = asyncio.Event(), asyncio.current_task()
    assert task is not None
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancel() if told.is_set() else told.set())
    return told


async def drain(service: StageService, health: Health) -> None:
    """Take no more sessions, and wait until the others have moved elsewhere, but not for ever."""
    log.info("serving ends: sessions have %.0f s to move elsewhere", DRAIN_SECONDS)
    await health.drain()
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await service.drain()
    except TimeoutError:
        log.warning("some sessions have not moved; they end now")
