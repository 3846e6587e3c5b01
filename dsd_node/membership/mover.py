"""A node that serves looks now and then whether its swarm has more need of it elsewhere."""

import asyncio
import hashlib
import logging

from dsd_node.membership.newcomer import Newcomer
from dsd_node.membership.place import Place

log = logging.getLogger(__name__)

LOOK_ROUNDS = 60.0
"""Of gossip, between two looks."""


async def needed_elsewhere(newcomer: Newcomer, place: Place, layers: range) -> range:
    """Returns the layers to go over to, once two looks on end have found that the swarm would do much better so."""
    pause = newcomer.round_seconds * LOOK_ROUNDS * (1 + _lot(newcomer.peer))
    found: range | None = None
    while True:
        await asyncio.sleep(pause)
        before = found
        found = await asyncio.to_thread(place.better_layers, newcomer.peer, layers, newcomer.records)
        if found is not None and found == before:
            log.info("layers %d:%d are needed more than %d:%d", found.start, found.stop, layers.start, layers.stop)
            return found


def _lot(peer: str) -> float:
    """From 0 to 1, by which peers look at different times: who looks later sees that another has gone."""
    return int.from_bytes(hashlib.sha256(peer.encode()).digest()[:4], "big") / 2**32
