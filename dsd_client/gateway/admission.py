"""How many answers run at once, and how many may wait: more than that is refused at once, with a time to come back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from dsd_core.errors import OutOfCapacity, UsageError

LONGEST_RETRY_SECONDS = 60.0
FIRST_GUESS_SECONDS = 2.0
WEIGHT_OF_NEWS = 0.2


@dataclass(frozen=True, slots=True)
class AdmissionConfig:
    """How many answers run at once, and how many more may wait for their turn."""

    running: int = 32
    waiting: int = 64


class Admission:
    """Admit a request with all the answers that it asks for, then let each of them wait for its turn."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._config = config
        self._turns = asyncio.Semaphore(config.running)
        self._admitted = 0
        self.running = 0
        self._seconds = FIRST_GUESS_SECONDS

    @property
    def waiting(self) -> int:
        return self._admitted - self.running

    @contextmanager
    def admitted(self, answers: int) -> Iterator[None]:
        """Raises OutOfCapacity while there is no room for all of them, UsageError where there never is."""
        if answers > self._config.running + self._config.waiting:
            raise UsageError(f"{answers} answers to one request are more than this gateway takes on; ask for fewer")
        if self._admitted + answers > self._config.running + self._config.waiting:
            raise OutOfCapacity(
                f"{self.running} answers are running and {self.waiting} are waiting, which is all this gateway takes on; "
                "try again later",
                retry_after=self.retry_seconds,
            )
        self._admitted += answers
        try:
            yield
        finally:
            self._admitted -= answers

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Of an admitted answer."""
        now = asyncio.get_running_loop().time
        async with self._turns:
            self.running += 1
            started = now()
            try:
                yield
            finally:
                self.running -= 1
                self._seconds += WEIGHT_OF_NEWS * (now() - started - self._seconds)

    @property
    def retry_seconds(self) -> float:
        """About when those that wait now will have had their turn."""
        return min(LONGEST_RETRY_SECONDS, self._seconds * (1 + self.waiting / self._config.running))
