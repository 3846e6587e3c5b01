"""A lane that is given up for a better one: peers come, and links drift, while a conversation goes on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from dsd_client.lane_link import LaneEvent, LaneLink
from dsd_core.decoding.events import LaneDraining

REPLAN_SECONDS = 15.0
"""Between looks for a chain that is clearly sooner."""


class ReplannedLink(LaneLink):
    """Drains of itself once there is a clearly sooner chain; the session leaves it when another has answered."""

    has_sooner: Callable[[LaneLink], Awaitable[bool]]
    """Set it before `serve`."""

    async def serve(self, deliver: Callable[[LaneEvent], None]) -> NoReturn:
        looking = asyncio.create_task(self._look(deliver))
        try:
            await super().serve(deliver)
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            if not looking.cancelled():
                looking.result()

    async def _look(self, deliver: Callable[[LaneEvent], None]) -> None:
        while True:
            await asyncio.sleep(REPLAN_SECONDS)
            if await self.has_sooner(self):
                return deliver(LaneDraining(self.lane))
