"""Streams that come before the session that they name."""

import asyncio
from weakref import WeakValueDictionary


class Openings:
    """Those who wait for a session, by its id, until it opens. What nobody waits for any more is forgotten."""

    def __init__(self) -> None:
        self._awaited: WeakValueDictionary[bytes, asyncio.Event] = WeakValueDictionary()

    def __contains__(self, session_id: bytes) -> bool:
        """Whether somebody waits for it."""
        return session_id in self._awaited

    def happened(self, session_id: bytes) -> None:
        opened = self._awaited.pop(session_id, None)
        if opened is not None:
            opened.set()

    async def next(self, session_id: bytes) -> None:
        """Until a session of this id opens."""
        opened = self._awaited.setdefault(session_id, asyncio.Event())
        await opened.wait()
