"""The standard gRPC health service, which tells load balancers and people whether this node serves."""

import asyncio
import logging

from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

from dsd_node.engine import Engine

log = logging.getLogger(__name__)

SERVICES = ("", "dsd.v1.StageService")
CANARY_SECONDS = 30.0
"""A node that has computed a frame within so long needs no canary."""
LIMIT_SECONDS = 10.0


class Health:
    """SERVING as long as one token passes through the span: an open socket says nothing about the thread behind it."""

    def __init__(self, engine: Engine) -> None:
        self.servicer = HealthServicer()
        self._engine = engine

    async def watch(self, *, every: float = CANARY_SECONDS, limit: float = LIMIT_SECONDS) -> None:
        """Runs as long as the node does."""
        await self._say(HealthCheckResponse.NOT_SERVING)  # gRPC's servicer says SERVING before anybody has looked
        while True:
            # Computing cannot be cancelled, so a canary that is late is left alone, and the next one waits for it.
            canary = asyncio.create_task(self._engine.canary(unless_within=every))
            try:
                await asyncio.wait([canary], timeout=limit)
                await self._say(HealthCheckResponse.SERVING if _passed(canary) else HealthCheckResponse.NOT_SERVING)
                await asyncio.wait([canary])
            finally:
                canary.cancel()
            await asyncio.sleep(every)

    async def drain(self) -> None:
        """NOT_SERVING from now on."""
        await self.servicer.enter_graceful_shutdown()

    async def _say(self, status: "HealthCheckResponse.ServingStatus.ValueType") -> None:
        for service in SERVICES:
            await self.servicer.set(service, status)


def _passed(canary: "asyncio.Task[None]") -> bool:
    if not canary.done():
        log.error("a single token has not passed through the span in time; new sessions should go elsewhere")
        return False
    if error := canary.exception():
        log.error("a single token did not pass through the span: %s", error)
    return error is None
