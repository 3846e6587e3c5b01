"""Where a conversation's lanes come from: chains of stages that neither failed lately nor serve already, if there are such."""

import asyncio
from collections.abc import Collection

from dsd_client.chain_choice import Wishes
from dsd_client.lane_link import LaneLink
from dsd_client.replanned_link import ReplannedLink
from dsd_client.stage import Stage
from dsd_client.swarm import Swarm
from dsd_core.decoding.chains.routing import is_clearly_sooner
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.ids import LaneId
from dsd_core.errors import DsdError, Fault, NoPeers, OutOfCapacity, PeerLost
from dsd_core.model.shape import ModelShape
from dsd_core.network.address import Address
from dsd_core.network.status import unreachable
from dsd_core.wire.hidden import DType

AVOID_SECONDS = 30.0
"""How long a stage of a lane that failed is used only if there is no other."""

BROKEN_SECONDS, BROKEN_PAUSE_SECONDS = 5.0, 0.25
"""How long, and how often, stages that answer are asked for a first lane though their connections broke."""


class LaneSource:
    """Opens lanes that compute alike: the same model, the same dtype, the same rule, the same room."""

    def __init__(
        self, swarm: Swarm, model: ModelShape, rule: ChoiceRule, positions: int, *, replanned: bool = False
    ) -> None:
        """Lanes that are `replanned` give way to a clearly sooner chain; those of a session that has several lanes need not."""
        self._swarm = swarm
        self._model = model
        self._rule = rule
        self._positions = positions
        self._first: LaneLink | None = None
        """The lane that was open first: the others compute in its dtype."""
        self._refused: dict[tuple[Address, ...], DsdError] = {}
        """What the stages said of a lane that was begun, and need not be asked again at once."""
        self._last_tried: tuple[Stage, ...] = ()
        """The chain that was chosen when none was left to try."""
        self._failed: dict[Address, float] = {}
        """When each was last part of a lane that failed."""
        self._next = LaneId(1)
        self._kind = ReplannedLink if replanned else LaneLink

    @property
    def has_opened(self) -> bool:
        """Whether any lane of these was ever open."""
        return self._first is not None and self._first.is_open

    async def begin(self) -> LaneLink:
        """The first lane, on the best chain, not yet open: it takes frames while its stages are asked for room, so that the
        first token is a round trip sooner. Where they refuse, `open_first` goes on."""
        return self._begin(await self._choose(())).expect_frames()

    async def open_first(self, patience: float) -> LaneLink:
        """As `open`, but a full node is asked again when it says, for `patience` seconds at most, and stages whose connections
        broke after a moment, as long as they are there: one that is down is in no chain by then."""
        now = asyncio.get_running_loop().time
        until, until_unbroken = now() + patience, now() + min(patience, BROKEN_SECONDS)
        appointment: tuple[Stage, ...] = ()
        while True:
            try:
                return await self.open(first=appointment)
            except OutOfCapacity as full:
                if full.retry_after is None or now() + full.retry_after > until:
                    raise
                await asyncio.sleep(full.retry_after)
                appointment = self._last_tried
            except PeerLost as lost:
                if now() > until_unbroken:
                    raise unreachable(lost) from None
                await asyncio.sleep(BROKEN_PAUSE_SECONDS)
                appointment = ()

    async def open(
        self, others: Collection[LaneLink] = (), *, disjoint: bool = False, first: tuple[Stage, ...] = ()
    ) -> LaneLink:
        """A lane on another chain than the `others` have, on other peers as far as there are, or, if `disjoint`, at all. Raises
        what the first chain said once every chain worth trying has been tried. The chain `first`, which said when to come back,
        is asked before anybody is asked who there is."""
        tried: dict[tuple[Address, ...], DsdError] = {link.addresses: _taken(link) for link in others} | self._refused
        self._refused = {}
        self._last_tried = ()
        while True:
            stages, first = first or await self._choose(others), ()
            addresses = tuple(stage.address for stage in stages)
            if addresses in tried:
                self._last_tried = stages
                raise tried[addresses]
            if disjoint and (shared := [link for link in others if set(addresses) & set(link.addresses)]):
                raise _taken(shared[0])
            try:
                return await self._begin(stages).opened()
            except DsdError as error:
                if error.fault < Fault.PEER:
                    raise
                tried[addresses] = error
                self._blame(addresses)

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

    def lost(self, link: LaneLink, error: DsdError) -> None:
        """A lane failed, for whatever reason: avoid its stages for a while."""
        if not link.is_open:
            self._refused = {link.addresses: error}
        self._blame(link.addresses)

    def _blame(self, addresses: Collection[Address]) -> None:
        self._failed |= dict.fromkeys(addresses, asyncio.get_running_loop().time())
        self._swarm.choose_anew()

    async def _choose(self, others: Collection[LaneLink]) -> tuple[Stage, ...]:
        since = asyncio.get_running_loop().time() - AVOID_SECONDS
        failed = frozenset(address for address, failed_at in self._failed.items() if failed_at > since)
        serving = frozenset(address for link in others for address in link.addresses)
        return await self._swarm.chain(self._model, Wishes(self._dtype(others), failed, serving))

    def _dtype(self, others: Collection[LaneLink]) -> DType | None:
        alike = [*others, *([self._first] if self._first is not None and self._first.is_open else [])]
        return alike[0].stages[0].dtype if alike else None

    def _begin(self, stages: tuple[Stage, ...]) -> LaneLink:
        capacity = min(self._positions, self._model.max_positions)
        lane, self._next = self._next, LaneId(self._next + 1)
        link = self._kind(lane, stages, self._rule, capacity)
        if isinstance(link, ReplannedLink):
            link.has_sooner = self.has_sooner
        if not self.has_opened:
            self._first = link
        return link


def _taken(link: LaneLink) -> NoPeers:
    route = " -> ".join(link.route)
    return NoPeers(f"there is no chain of stages besides {route}; start more nodes")
