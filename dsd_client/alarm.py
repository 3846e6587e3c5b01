"""When to be woken: a time that moves with almost every event, mostly to later."""

import asyncio
import time
from collections.abc import Callable


class Alarm:
    """Calls `ring` once `time.monotonic()` has reached what it was last set to. To move it to later takes no new timer."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """It may go off before the alarm is due, and is wound up again then."""
        self._goes_off_at = 0.0

    def set(self, due: float) -> None:
        self._due = due
        if self._timer is None or due < self._goes_off_at:
            self._wind()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wind(self) -> None:
        self.stop()
        self._goes_off_at = self._due
        self._timer = asyncio.get_running_loop().call_at(self._due, self._gone_off)

    def _gone_off(self) -> None:
        self._timer = None
        if time.monotonic() < self._due:
            self._wind()
        else:
            self._ring()
