"""Streams that come before the session that they name."""

import asyncio
from weakref import WeakValueDictionary

from dsd_core.errors import OutOfCapacity

MOST_BYTES = 16 << 20
"""Of messages that wait for a session: whoever sends them has been promised no memory yet."""


class Openings:
    """Those who wait for a session, by its id, until it opens. What nobody waits for any more is forgotten."""

    def __init__(self) -> None:
        self._awaited: WeakValueDictionary[bytes, asyncio.Event] = WeakValueDictionary()
        self._held_bytes = 0

    def __contains__(self, session_id: bytes) -> bool:
        """Whether somebody waits for it."""
        return session_id in self._awaited

    def happened(self, session_id: bytes) -> None:
        opened = self._awaited.pop(session_id, None)
        if opened is not None:
            opened.set()

    async def next(self, session_id: bytes, holding: int = 0) -> None:
        """Until a session of this id opens, for a stream whose message takes so many bytes. Raises OutOfCapacity."""
        if self._held_bytes + holding > MOST_BYTES:
            raise OutOfCapacity("frames of too many sessions wait here to be opened; open the session first")
        opened = self._awaited.setdefault(session_id, asyncio.Event())
        self._held_bytes += holding
        try:
            await opened.wait()
        finally:
            self._held_bytes -= holding
