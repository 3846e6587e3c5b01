"""The swarm behind the gateway, for the page and for whoever else wants to draw it."""

from dataclasses import asdict
from typing import Any

from typing_extensions import TypedDict

from dsd_client.gateway.gateway import Gateway
from dsd_client.peer_view import coverage


class Load(TypedDict):
    """Of the gateway itself."""

    running: int
    waiting: int
    tokens_per_second: float


class SwarmView(TypedDict):
    """`coverage` is how many peers serve each layer; `is_covered`, whether each has one."""

    model: str
    is_covered: bool
    coverage: list[int]
    peers: list[dict[str, Any]]
    load: Load


async def swarm_view(gateway: Gateway) -> SwarmView:
    """Asks every peer."""
    peers = await gateway.client.peers()
    layers = coverage(peers)
    return {
        "model": gateway.model,
        "is_covered": bool(layers) and all(layers),
        "coverage": layers,
        "peers": [asdict(peer) for peer in peers],
        "load": {
            "running": gateway.admission.running,
            "waiting": gateway.admission.waiting,
            "tokens_per_second": gateway.metrics.tokens_per_second,
        },
    }
