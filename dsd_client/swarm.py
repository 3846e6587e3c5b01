"""The peers of a swarm, and which of them serve the model."""

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import grpc.aio

from dsd_client.chain_choice import ANY, Wishes, chain_of, links_of
from dsd_client.peer_list import PeerList, few_of_each_span, list_drafters, list_stages, require_true
from dsd_client.remote_drafter import DrafterPeer
from dsd_client.stage import Stage, require_model, require_sense
from dsd_core.decoding.chains.round_trips import RoundTrips
from dsd_core.decoding.chains.routing import traversal_seconds
from dsd_core.errors import DsdError, NoPeers, Refused, StorageFull, UsageError
from dsd_core.membership.record import PeerRecord, State
from dsd_core.model.shape import ModelShape
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.channels import break_noticed, settled
from dsd_core.network.identity import PeerId
from dsd_core.network.last_swarm import LastSwarm
from dsd_core.network.seeds import Seeds
from dsd_core.network.status import error_of, unreachable
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Secure, Transport
from dsd_core.wire import VERSIONS
from dsd_core.wire.v1 import stage_pb2

log = logging.getLogger(__name__)

Found = TypeVar("Found", list[PeerRecord], PeerList)

CALL_SECONDS = 10.0
LOOK_SECONDS = 2.0
"""A list of peers is good for so long, and so is what they said of themselves, where nothing has failed since."""
ASKED = 3
"""Peers are asked at once whom they know, as some may be gone or frozen."""
SOON_SECONDS = 1.0
"""How long a peer that may not be needed is waited for."""
MAX_CHANNELS = 256
"""Whoever signs records can make us dial as many peers as they like: the one that was asked for longest ago is closed."""


class Swarm:
    """The peers that were named, those that they know, and a channel to each. Close it."""

    def __init__(
        self, seeds: Seeds, transport: Transport, last: LastSwarm | None = None, banned: BannedPeers | None = None
    ) -> None:
        """Those that were found are kept in `last`; those `banned` are in no chain."""
        self._banned = banned or BannedPeers(None)
        self._transport = transport
        self._seeds = seeds
        self._last = last or LastSwarm(None)
        self._peers = dict(seeds.peers)
        self._records: dict[Address, PeerRecord] = {}
        self._aside: dict[Address, PeerRecord] = {}
        """Peers that load, leave or are suspected: in no chain, and looked at where somebody wants to see all peers."""
        self._suspected: frozenset[Address] = frozenset()
        self._looked_at = -math.inf
        self._chosen: dict[ModelShape, tuple[float, tuple[Stage, ...]]] = {}
        """For each model: when the last chain was chosen among all stages that there are, and the chain."""
        self._left_out: set[str] = set()
        """What was said of peers that are done without; once is enough."""
        self._channels: dict[tuple[Address, PeerId], grpc.aio.Channel] = {}
        """The one that was asked for last is last."""
        self._proven: dict[Address, PeerId] = {}
        """Who has shown to be at an address, and has not failed there since."""
        self._round_trips = RoundTrips[Address]()

    async def chain(self, model: ModelShape, wishes: Wishes = ANY) -> tuple[Stage, ...]:
        """The stages to send to, in order. A peer that does not answer is waited for only where no chain does without it.
        Without wishes it may be the chain that was chosen a moment ago.

        Raises NoPeers, Refused, NotCovered or TimedOut.
        """
        if wishes != ANY:
            return await self._choose(model, wishes)
        chosen_at, chosen = self._chosen.get(model, (-math.inf, ()))
        is_old = asyncio.get_running_loop().time() - chosen_at >= LOOK_SECONDS
        if is_old or any(stage.peer in self._banned for stage in chosen):
            chosen = await self._choose(model, wishes)
            self._chosen[model] = asyncio.get_running_loop().time(), chosen
        return chosen

    def choose_anew(self) -> None:
        """A chain has failed: the next one is chosen by what its stages say then."""
        self._chosen.clear()

    async def _choose(self, model: ModelShape, wishes: Wishes) -> tuple[Stage, ...]:
        self._require_peers()
        await self._look_around(model)
        asking = {address: asyncio.create_task(self._describe(address, model)) for address in self._peers}
        asked = list(asking.values())
        # Whoever serves in a lane that is to be replaced may be frozen: with a chain of others nobody waits for it.
        fresh = [task for address, task in asking.items() if address not in wishes.failed | wishes.serving]
        try:
            for awaited in (fresh or asked, asked):
                await asyncio.wait(awaited, timeout=SOON_SECONDS)
                with suppress(DsdError):
                    return self._route(asked, wishes)
            await asyncio.wait(asked)
            return self._route(asked, wishes)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def drafters(self, vocabulary_hash: str) -> AsyncGenerator[DrafterPeer, None]:
        """The peers that draft in a vocabulary, as they answer. Peers that do not answer do not draft."""
        found = await _first_answer([self._drafters_at(address) for address in self._some_peers()]) or []
        peers = {record.addresses[0]: record.peer for record in found if self._may_be_at(record)}
        asking = [asyncio.create_task(self._describe_drafter(*each)) for each in (dict(self._seeds.peers) | peers).items()]
        try:
            for answer in asyncio.as_completed(asking):
                try:
                    peer = await answer
                except DsdError as error:
                    log.debug("no drafter: %s", error)
                else:
                    if peer.vocabulary_hash == vocabulary_hash:
                        yield peer
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def traversal_seconds(self, stages: Sequence[Stage]) -> float:
        """What a frame is predicted to take through a chain, by what is known now."""
        own = self._round_trips.seconds()
        fresh = [
            replace(stage, round_trip=own.get(stage.address, stage.round_trip), record=self._records.get(stage.address))
            for stage in stages
        ]
        return traversal_seconds(fresh, {stage: stage.offer for stage in fresh}, links_of(fresh))

    async def measured_again(self, stages: Sequence[Stage], times: int) -> list[Stage]:
        """The same stages, after so many more looks at each. One that does not answer stays as it was known."""
        return await asyncio.gather(*(self._asked_again(stage, times) for stage in stages))

    async def _asked_again(self, stage: Stage, times: int) -> Stage:
        with suppress(DsdError):
            for _ in range(times):
                stage = await self._stage(stage.address, stage.model)
        return stage

    async def look_at_all(
        self, model: ModelShape
    ) -> tuple[Mapping[Address, PeerRecord], Mapping[Address, Stage | DsdError]]:
        """All that the peers of a model say of themselves, and what each answers, or why it does not. Raises NoPeers."""
        self._require_peers()
        await self._look_around(model)
        addresses = self._all_peers()
        answers = await asyncio.gather(*(self._answer_of(address, model) for address in addresses))
        return self._aside | self._records, dict(zip(addresses, answers, strict=True))

    async def _answer_of(self, address: Address, model: ModelShape) -> Stage | DsdError:
        try:
            return await self._describe(address, model)
        except DsdError as error:
            return error

    def is_suspected(self, address: Address) -> bool:
        """Whether others say of the peer there that it does not answer. Whoever answers us is not to be suspected."""
        return address in self._suspected

    def _require_peers(self) -> None:
        if not self._peers:
            raise NoPeers("no peer was named; pass --join HOST:PORT of a running dsd-node, or try `dsd-client demo`")

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    # -- who there is --------------------------------------------------------------------------------------------------

    async def _look_around(self, model: ModelShape) -> None:
        """Ask a few peers whom they know. One answer is enough: gossip tells all of them the same."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < LOOK_SECONDS or not isinstance(self._transport, Secure):
            return
        if found := await _first_answer([self._stages_at(address, model) for address in self._some_peers()]):
            self._looked_at = now
            self._take(found)
            await self._remember()

    async def _stages_at(self, address: Address, model: ModelShape) -> PeerList:
        try:
            _, channel = await self._channel(address)
            return await list_stages(channel, model.manifest_hash, self._seeds.swarm or b"")
        except DsdError as error:
            log.debug("%s", error)
            return PeerList()

    async def _drafters_at(self, address: Address) -> list[PeerRecord]:
        try:
            async with asyncio.timeout(SOON_SECONDS):
                _, channel = await self._channel(address)
                return await list_drafters(channel, self._seeds.swarm or b"")
        except (DsdError, TimeoutError) as error:
            log.debug("%s", error)
            return []

    def _some_peers(self) -> list[Address]:
        return random.sample(list(self._peers), min(len(self._peers), ASKED))

    def _take(self, found: PeerList) -> None:
        """Whom to dial from now on."""
        serving = [record for record in found.alive if record.state is State.SERVING]
        others = [record for record in found.alive if record.state is not State.SERVING]
        self._records = self._by_address(serving)
        self._aside = self._by_address([*others, *found.suspected])
        self._suspected = frozenset(record.addresses[0] for record in found.suspected)
        self._peers = dict(self._seeds.peers) | {address: record.peer for address, record in self._records.items()}

    def _by_address(self, records: Sequence[PeerRecord]) -> dict[Address, PeerRecord]:
        return {record.addresses[0]: record for record in few_of_each_span(records) if self._may_be_at(record)}

    def _all_peers(self) -> list[Address]:
        return list(self._peers | self._aside)

    def _may_be_at(self, record: PeerRecord) -> bool:
        """An address at which somebody has answered is not given to another that claims it."""
        address = record.addresses[0]
        return (self._proven.get(address) or self._seeds.peers.get(address)) in (None, record.peer)

    async def _remember(self) -> None:
        token = self._seeds.token([(address, record.peer) for address, record in self._records.items()])
        try:
            await asyncio.to_thread(self._last.keep, token)
        except (StorageFull, UsageError) as error:
            log.warning("%s", error)

    # -- what they are -------------------------------------------------------------------------------------------------

    async def _describe(self, address: Address, model: ModelShape) -> Stage:
        try:
            if address in self._round_trips.seconds():
                _, channel = await self._channel(address)
                with suppress(NoPeers):  # It answered before, so it may be only the connection that broke.
                    return await self._stage(address, model)
                await break_noticed(channel)
            return await self._stage(address, model)
        except DsdError:
            self._round_trips.forget(address)
            self._proven.pop(address, None)
            raise

    def _route(self, asked: Sequence[asyncio.Task[Stage]], wishes: Wishes) -> tuple[Stage, ...]:
        """Among those that have answered by now."""
        answered = [task for task in asked if task.done()]
        described = [task.result() for task in answered if task.exception() is None]
        stages = [stage for stage in described if stage.peer not in self._banned]
        failures = [failure for task in answered if (failure := task.exception()) is not None]
        failures += [_ban(stage, self._banned.reason(stage.peer)) for stage in described if stage.peer in self._banned]
        failures += [_leaving(stage) for stage in stages if stage.description.draining]
        route = chain_of(stages, failures, wishes)
        for reason in {str(failure) for failure in failures} - self._left_out:
            log.info("left out: %s", reason)
            self._left_out.add(reason)
        return route

    async def _stage(self, address: Address, model: ModelShape) -> Stage:
        peer, channel = await self._channel(address)
        request = stage_pb2.DescribeRequest(protocol_version=VERSIONS.newest, oldest_protocol_version=VERSIONS.oldest)
        clock = asyncio.get_running_loop().time
        deadline = clock() + CALL_SECONDS
        await settled(channel, CALL_SECONDS)
        asked_at = clock()
        try:
            description = await stage_stub(channel).Describe(request, timeout=max(0.0, deadline - asked_at))
        except grpc.aio.AioRpcError as failure:
            raise unreachable(error_of(failure, f"the peer at {address}")) from None
        self._round_trips.add(address, clock() - asked_at)
        self._proven[address] = peer
        require_sense(description, address)
        if address in self._records:
            require_true(self._records[address], description)
        require_model(description, address, model)
        return Stage(address, peer, channel, description, self._round_trips.seconds()[address], self._records.get(address))

    async def _describe_drafter(self, address: Address, peer: PeerId | None) -> DrafterPeer:
        peer, channel = await self._channel_to(address, peer)
        drafter = await DrafterPeer.at(address, channel)
        self._proven[address] = peer
        return drafter

    async def _channel(self, address: Address) -> tuple[PeerId, grpc.aio.Channel]:
        aside = self._aside.get(address)
        return await self._channel_to(address, self._peers.get(address) or (aside.peer if aside else None))

    async def _channel_to(self, address: Address, peer: PeerId | None) -> tuple[PeerId, grpc.aio.Channel]:
        """To the peer that was named, or else to whoever was met at the address first. Others that claim to be there take
        nothing from it."""
        peer = peer or self._proven.get(address) or await self._meet(address)
        channel = self._channels.pop((address, peer), None) or self._transport.channel(address, peer)
        self._channels[address, peer] = channel
        if len(self._channels) > MAX_CHANNELS:
            await self._forget_oldest()
        return peer, channel

    async def _forget_oldest(self) -> None:
        (address, peer), channel = next(iter(self._channels.items()))
        del self._channels[address, peer]
        if self._proven.get(address) == peer:
            del self._proven[address]
            self._round_trips.forget(address)
        await channel.close()

    async def _meet(self, address: Address) -> PeerId:
        peer, is_new = await self._transport.meet(address)
        self._proven[address] = peer
        if is_new:
            log.info("met %s at %s for the first time; from now on nobody else is believed there", peer, address)
        return peer


async def _first_answer(asking: Sequence[Coroutine[object, object, Found]]) -> Found | None:
    """The first that is not empty, if there is one."""
    tasks = [asyncio.create_task(asks) for asks in asking]
    try:
        for answer in asyncio.as_completed(tasks):
            if found := await answer:
                return found
        return None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ban(stage: Stage, why: str) -> Refused:
    because = f" ({why})" if why else ""
    return Refused(
        f"the peer at {stage.address} is banned here{because}; see {stage.peer} in banned_peers of the data directory"
    )


def _leaving(stage: Stage) -> Refused:
    return Refused(f"the peer at {stage.address} is being shut down; join another")
