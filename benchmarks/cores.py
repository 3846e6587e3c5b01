"""Cores that are shared, in virtual time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Of a simulated world. Seconds."""

    now: float

    def call_in(self, seconds: float, happen: Callable[[], None]) -> None: ...


@dataclass
class _Job:
    seconds: float
    """Of a core, that are left."""
    done: Callable[[], None]
    is_clients: bool


class Cores:
    """Divides `count` cores evenly among jobs; those of the client get one core at most."""

    def __init__(self, count: float, clock: Clock) -> None:
        self.busy = 0.0
        """Seconds of a core that were used."""
        self._count = count
        self._clock = clock
        self._jobs: list[_Job] = []
        self._looked_at = 0.0
        self._plans = 0

    def run(self, milliseconds: float, done: Callable[[], None], *, is_clients: bool = False) -> None:
        self._catch_up()
        self._jobs.append(_Job(milliseconds / 1000, done, is_clients))
        self._plan()

    def _rates(self) -> Iterator[tuple[_Job, float]]:
        """What each job gets of a core."""
        of_client = sum(job.is_clients for job in self._jobs)
        even = min(1.0, self._count / len(self._jobs))
        of_others = even
        if of_client * even > 1.0:
            even, others = 1.0 / of_client, len(self._jobs) - of_client
            of_others = min(1.0, (self._count - 1.0) / others) if others else 0.0
        return ((job, even if job.is_clients else of_others) for job in self._jobs)

    def _catch_up(self) -> None:
        passed, self._looked_at = self._clock.now - self._looked_at, self._clock.now
        if self._jobs:
            for job, rate in self._rates():
                job.seconds -= passed * rate
                self.busy += passed * rate

    def _plan(self) -> None:
        """Look again when the next job will be done, unless others have come by then."""
        self._plans += 1
        if self._jobs:
            soonest = min(max(0.0, job.seconds) / rate for job, rate in self._rates())
            self._clock.call_in(soonest, partial(self._look, self._plans))

    def _look(self, plan: int) -> None:
        if plan != self._plans:
            return
        self._catch_up()
        done = [job for job in self._jobs if job.seconds <= 1e-9]
        self._jobs = [job for job in self._jobs if job.seconds > 1e-9]
        self._plan()
        for job in done:
            job.done()
