"""What Prometheus may ask of a node: counts and times, never who asked or what was said."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest, make_asgi_app

from dsd_core.membership.record import PeerRecord, State
from dsd_core.network.address import Address
from dsd_node.quotas import Quotas

log = logging.getLogger(__name__)

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
GRACE_SECONDS = 1


class Metrics:
    """Of one node, in a registry of its own. They go on when the node goes over to other layers."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._frames = Counter("dsd_node_frames", "Frames whose turn came, stale ones included.", registry=registry)
        self._computed = Counter("dsd_node_computed_nodes", "Nodes of frames that were computed.", registry=registry)
        self._stale = Counter("dsd_node_stale_nodes", "Nodes that were off the path when their turn came.", registry=registry)
        timing: dict[str, Any] = {"buckets": SECONDS, "registry": registry}
        self._waiting = Histogram("dsd_node_wait_seconds", "From a frame's arrival to its turn.", **timing)
        self._computing = Histogram("dsd_node_compute_seconds", "For a frame.", **timing)
        self._drafting = Histogram("dsd_node_draft_seconds", "From a question to its drafts.", **timing)
        self._failed = Counter("dsd_node_failed_calls", "Calls that ended in an error.", ["reason"], registry=registry)
        nbytes = Counter("dsd_node_bytes", "Of messages, without framing and TLS.", ["direction"], registry=registry)
        self._sent, self._received = nbytes.labels("sent"), nbytes.labels("received")
        self._sessions = Gauge("dsd_node_sessions", "Sessions that are open.", registry=registry)
        self._reserved = Gauge("dsd_node_reserved_kv_bytes", "Promised to sessions.", registry=registry)
        self._free = Gauge("dsd_node_free_kv_bytes", "That may be promised to sessions.", registry=registry)
        self._peers = Gauge("dsd_node_peers", "Members of the swarm, this one included.", ["state"], registry=registry)

    def watch(self, quotas: Quotas, records: Callable[[], Iterable[PeerRecord]]) -> None:
        """Look there whenever somebody asks."""
        self._sessions.set_function(lambda: quotas.sessions)
        self._reserved.set_function(lambda: quotas.total_bytes - quotas.free_bytes)
        self._free.set_function(lambda: quotas.free_bytes)
        for state in State:
            self._peers.labels(state.value).set_function(partial(_count, records, state))

    def exposition(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    @asynccontextmanager
    async def served(self, address: Address) -> AsyncIterator[str]:
        """At the URL that it yields, in this event loop: what is looked at is never half changed. Raises AddressInUse."""
        from dsd_core.network.http_server import HttpServer, listen  # most nodes serve none

        with listen(address.host, address.port) as listener:
            url = f"http://{Address(address.host, listener.getsockname()[1])}/metrics"
            log.info("metrics for Prometheus at %s", url)
            server = HttpServer(make_asgi_app(self._registry), grace_seconds=GRACE_SECONDS)
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield url
            finally:
                server.should_exit = True
                await serving

    # -- what happens ----------------------------------------------------------------------------------------------------

    def on_turn(self, *, nodes: int, alive: int) -> None:
        """A frame's turn came, and so many of its nodes were still alive."""
        self._frames.inc()
        self._computed.inc(alive)
        self._stale.inc(nodes - alive)

    def on_computed(self, *, waited_seconds: float, seconds: float) -> None:
        self._waiting.observe(waited_seconds)
        self._computing.observe(seconds)

    def on_drafted(self, seconds: float) -> None:
        self._drafting.observe(seconds)

    def on_failed_call(self, reason: str) -> None:
        """`reason` is a gRPC status: there are few."""
        self._failed.labels(reason).inc()

    def on_received(self, nbytes: int) -> None:
        self._received.inc(nbytes)

    def on_sent(self, nbytes: int) -> None:
        self._sent.inc(nbytes)


def _count(records: Callable[[], Iterable[PeerRecord]], state: State) -> int:
    return sum(record.state is state for record in records())
