"""A node that comes into a swarm: it looks about, claims layers before it loads them, and gives way to who was first."""

import asyncio
import math
from collections.abc import Callable
from functools import partial

from dsd_core.membership.ids import PeerId
from dsd_core.membership.record import PeerRecord
from dsd_node.membership.gossip import Gossiper
from dsd_node.membership.place import Place
from dsd_node.membership.statement import Statement

MAX_CLAIMS = 8
"""So often a newcomer goes out of the way; then it loads, and the swarm holds something twice."""


class Newcomer:
    def __init__(self, peer: PeerId, gossiper: Gossiper, round_seconds: float) -> None:
        self.peer = peer
        self._gossiper = gossiper
        self.round_seconds = round_seconds

    @property
    def records(self) -> list[PeerRecord]:
        """Of the others."""
        records = (signed.record for signed in self._gossiper.records)
        return [record for record in records if record.peer != self.peer]

    async def look_about(self, rounds: float) -> list[PeerRecord]:
        """Whom the first to answer knows; nobody, if nobody answers for so long."""
        try:
            async with asyncio.timeout(rounds * self.round_seconds):
                await self._gossiper.has_met.wait()
        except TimeoutError:
            pass
        return self.records

    async def settle(self, place: Place, claim: Callable[[range], Statement]) -> range:
        """Claim layers, hear what others claim, and choose anew until the choice stands. Raises OutOfCapacity."""
        elders = frozenset(record.peer for record in self.records)
        layers = await asyncio.to_thread(place.layers, self.peer, self.records, elders)
        for _ in range(MAX_CLAIMS):
            self._gossiper.say(partial(claim, layers))
            if not elders or layers == place.all_layers:
                break  # There is nobody whose choice would clash with ours.
            await asyncio.sleep(self.round_seconds * (math.log2(len(self.records) + 2) + 1))
            chosen = await asyncio.to_thread(place.layers, self.peer, self.records, elders)
            if chosen == layers:
                break
            layers = chosen
        return layers
