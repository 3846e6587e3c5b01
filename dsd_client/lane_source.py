"""Where a conversation's lanes come from: chains of stages that neither failed lately nor serve already, if there are such."""

import asyncio
from collections.abc import Collection

from dsd_client.lane_link import LaneLink
from dsd_client.replanned_link import ReplannedLink
from dsd_client.swarm import Stage, Swarm, Wishes
from dsd_core.decoding.chains.routing import is_clearly_sooner
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.ids import LaneId
from dsd_core.errors import DsdError, Fault, NoPeers
from dsd_core.network.address import Address
from dsd_core.wire.hidden import DType

AVOID_SECONDS = 30.0
"""How long a stage of a lane that failed is used only if there is no other."""


class LaneSource:
    """Opens lanes that compute alike: the same model, the same dtype, the same rule, the same room."""

    def __init__(
        self, swarm: Swarm, manifest_hash: str, rule: ChoiceRule, positions: int, *, replanned: bool = False
    ) -> None:
        """Lanes that are `replanned` give way to a clearly sooner chain; those of a session that has several lanes need not."""
        self._swarm = swarm
        self._manifest_hash = manifest_hash
        self._rule = rule
        self._positions = positions
        self._dtype: DType | None = None
        self._failed: dict[Address, float] = {}
        """When each was last part of a lane that failed."""
        self._next = LaneId(1)
        self._kind = ReplannedLink if replanned else LaneLink

    async def open(self, others: Collection[LaneLink] = (), *, disjoint: bool = False) -> LaneLink:
        """A lane on another chain than the `others` have, on other peers as far as there are, or, if `disjoint`, at all. Raises
        what the first chain said once every chain worth trying has been tried."""
        tried: dict[tuple[Address, ...], DsdError] = {link.addresses: _taken(link) for link in others}
        while True:
            stages = await self._choose(others)
            addresses = tuple(stage.address for stage in stages)
            if addresses in tried:
                raise tried[addresses]
            if disjoint and (shared := [link for link in others if set(addresses) & set(link.addresses)]):
                raise _taken(shared[0])
            try:
                return await self._open(stages)
            except DsdError as error:
                if error.fault < Fault.PEER:
                    raise
                tried[addresses] = error
                self.blame(addresses)

    async def has_sooner(self, link: LaneLink) -> bool:
        """Whether the chain that would be opened instead of a lane has come to be worth the move: peers come, links drift."""
        try:
            await self._swarm.measured_again(link.stages, times=1)  # for whoever serves is not waited for in a choice
            stages = await self._choose([link])
        except DsdError as error:
            if error.fault < Fault.PEER:
                raise
            return False
        return is_clearly_sooner(self._swarm.traversal_seconds(stages), than=self._swarm.traversal_seconds(link.stages))

    def blame(self, addresses: Collection[Address]) -> None:
        """A lane of these stages failed, for whatever reason: avoid them for a while."""
        self._failed |= dict.fromkeys(addresses, asyncio.get_running_loop().time())
        self._swarm.choose_anew()

    async def _choose(self, others: Collection[LaneLink]) -> tuple[Stage, ...]:
        since = asyncio.get_running_loop().time() - AVOID_SECONDS
        failed = frozenset(address for address, failed_at in self._failed.items() if failed_at > since)
        serving = frozenset(address for link in others for address in link.addresses)
        return await self._swarm.chain(self._manifest_hash, Wishes(self._dtype, failed, serving))

    async def _open(self, stages: tuple[Stage, ...]) -> LaneLink:
        capacity = min(self._positions, stages[0].description.max_positions)
        lane, self._next = self._next, LaneId(self._next + 1)
        link = await self._kind.open(lane, stages, self._rule, capacity)
        if isinstance(link, ReplannedLink):
            link.has_sooner = self.has_sooner
        self._dtype = stages[0].dtype
        return link


def _taken(link: LaneLink) -> NoPeers:
    route = " -> ".join(link.route)
    return NoPeers(f"there is no chain of stages besides {route}; start more nodes")
