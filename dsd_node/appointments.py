"""When callers that were refused are told to come again."""

import math
from dataclasses import dataclass

CALLERS = 2.0
"""For each place that becomes free: some will have gone elsewhere."""
UNKNOWN_SECONDS, SMOOTHING = 0.5, 1 / 8
CLOSEST_SECONDS, WIDEST_SECONDS = 0.02, 0.5
LONGEST_SECONDS = 15.0


@dataclass(slots=True)
class Appointments:
    """One after the other, about as fast as places become free. Else refusing takes the more of what the node could do for
    those whom it serves, the more there are, and a crowd that comes at once is refused at once, and comes at once again."""

    _latest: float = -math.inf
    _freed_at: float | None = None
    _between: float = UNKNOWN_SECONDS
    """Seconds from one place that becomes free to the next, smoothed."""

    def freed(self, now: float) -> None:
        """A place has become free."""
        if self._freed_at is not None:
            self._between += SMOOTHING * (now - self._freed_at - self._between)
        self._freed_at = now

    def make(self, now: float, soonest: float) -> float:
        """In how many seconds the next one is, at least `soonest`."""
        spacing = min(max(CLOSEST_SECONDS, self._between / CALLERS), WIDEST_SECONDS)
        seconds = min(max(soonest, self._latest + spacing - now), max(soonest, LONGEST_SECONDS))
        self._latest = now + seconds
        return seconds
