"""Whether the swarm can answer right now, known by asking it for one token."""

import asyncio

from dsd_client.client import Client
from dsd_client.gateway.metrics import Metrics
from dsd_core.errors import DsdError, TimedOut

CANARY = "1"
FRESH_SECONDS = 5.0
CANARY_SECONDS = 15.0


class Readiness:
    """An answer that is under way is proof enough, so the canary never queues behind real work; else one is asked for, and
    what came of it is believed for a moment."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        self._asking = asyncio.Lock()
        self._asked_at: float | None = None
        self._failure: DsdError | None = None

    async def check(self) -> None:
        """Raises the DsdError that keeps the swarm from answering."""
        async with self._asking:
            if self._metrics.last_token_at is None and not self._is_fresh:
                await self._ask()
        if self._failure is not None and self._metrics.last_token_at is None:
            raise self._failure

    @property
    def _is_fresh(self) -> bool:
        return self._asked_at is not None and _now() < self._asked_at + FRESH_SECONDS

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(CANARY_SECONDS):
                await self._client.generate(CANARY, max_new_tokens=1, speculation="off")
            self._failure = None
        except DsdError as error:
            self._failure = error
        except TimeoutError:
            self._failure = TimedOut(f"the swarm did not say one token in {CANARY_SECONDS:.0f} s; it may be overloaded")
        self._asked_at = _now()


def _now() -> float:
    return asyncio.get_running_loop().time()
