"""Drafters of the swarm: a peer drafts for us, and when it stalls, lies or is gone, n-gram lookup does."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc.aio

from dsd_client.drafting import NgramSource, SessionDrafter
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.contexts import Contexts, Proposal
from dsd_core.errors import DsdError, PeerLost, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.status import error_of
from dsd_core.network.stubs import draft_stub
from dsd_core.wire import VERSIONS
from dsd_core.wire.codec import rule_to_wire
from dsd_core.wire.drafts import TrunkSender, proposals_from_wire
from dsd_core.wire.v1 import drafter_pb2
from dsd_core.wire.versions import versions_from_wire

log = logging.getLogger(__name__)

OPEN_SECONDS = 3.0
ANSWER_SECONDS = 2.0
"""How long a request may take, and besides for each token that the peer has to read first."""
READ_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class DrafterPeer:
    """A peer that drafts, as it described itself."""

    address: Address
    channel: grpc.aio.Channel
    vocabulary_hash: str
    """Hex. It drafts for targets that number their tokens so."""

    @classmethod
    async def at(cls, address: Address, channel: grpc.aio.Channel) -> "DrafterPeer":
        """Ask. Raises DsdError, ProtocolError where the peer does not draft."""
        request = drafter_pb2.DescribeDrafterRequest(
            protocol_version=VERSIONS.newest, oldest_protocol_version=VERSIONS.oldest
        )
        try:
            said = await draft_stub(channel).DescribeDrafter(request, timeout=OPEN_SECONDS)
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, f"the drafter at {address}") from None
        theirs = versions_from_wire(said.protocol_version, said.oldest_protocol_version)
        VERSIONS.agree(theirs, peer=f"the drafter at {address}")
        return cls(address, channel, said.vocabulary_hash.hex())

    def __str__(self) -> str:
        return f"the drafter at {self.address}"


class RemoteDrafter:
    """One session at a drafter peer. Whatever is wrong with it costs speed only: `instead` drafts from then on."""

    is_local = False

    def __init__(self, peer: DrafterPeer, instead: SessionDrafter, vocab_size: int) -> None:
        """Use it once it is open."""
        self.peer = peer
        self.failure: DsdError | None = None
        self._instead = instead
        self._vocab_size = vocab_size
        self._trunk = TrunkSender()
        self._asking = asyncio.Lock()
        self._call = draft_stub(peer.channel).StreamDrafts()

    @property
    def name(self) -> str:
        return str(self.peer) if self.failure is None else f"{self._instead.name}: {self.failure}"

    async def open(self, rule: ChoiceRule, capacity: int) -> None:
        """If it fails, `failure` says why."""
        opening = drafter_pb2.OpenDrafts(capacity=capacity, sampling=rule_to_wire(rule))
        try:
            await self._exchange(drafter_pb2.StreamDraftsRequest(open=opening), OPEN_SECONDS)
        except DsdError as failure:
            self._give_up(failure)

    async def propose(
        self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0
    ) -> tuple[Proposal, ...]:
        async with self._asking:
            try:
                if self.failure is None:
                    return await self._ask(contexts, steps, candidates, least)
            except DsdError as failure:
                self._give_up(failure)
            except asyncio.CancelledError:
                self._give_up(PeerLost("the last question was taken back"))
                raise
        return await self._instead.propose(contexts, steps=steps, candidates=candidates, least=least)

    async def close(self) -> None:
        self._call.cancel()  # the end of the stream is the end of the session
        await self._instead.close()

    async def _ask(self, contexts: Contexts, steps: int, candidates: int, least: float) -> tuple[Proposal, ...]:
        message = self._trunk.to_wire(contexts, steps=steps, candidates=candidates, least=least)
        seconds = ANSWER_SECONDS + READ_SECONDS * (len(message.trunk) + steps)
        answer = await self._exchange(drafter_pb2.StreamDraftsRequest(contexts=message), seconds)
        return proposals_from_wire(
            answer, contexts=len(contexts.tails), steps=steps, candidates=candidates, vocab_size=self._vocab_size
        )

    async def _exchange(
        self, request: drafter_pb2.StreamDraftsRequest, seconds: float
    ) -> drafter_pb2.StreamDraftsResponse:
        try:
            async with asyncio.timeout(seconds):
                await self._call.write(request)
                answer = await self._call.read()
        except TimeoutError:
            raise TimedOut(f"{self.peer} did not answer in {seconds:.1f} s") from None
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, str(self.peer)) from None
        except asyncio.InvalidStateError:
            raise PeerLost(f"{self.peer} ended the session") from None
        if not isinstance(answer, drafter_pb2.StreamDraftsResponse):
            raise PeerLost(f"{self.peer} ended the session")
        return answer

    def _give_up(self, failure: DsdError) -> None:
        log.warning("%s; drafting with n-gram lookup", failure)
        self.failure = failure
        self._call.cancel()


class SwarmSource:
    """Drafts with a peer of the swarm, the first that has failed least; with n-gram lookup where there is none."""

    def __init__(self, find: Callable[[], Awaitable[Sequence[DrafterPeer]]], instead: NgramSource, vocab_size: int) -> None:
        """`find` tells the drafters that there are, the best first."""
        self._find = find
        self._instead = instead
        self._vocab_size = vocab_size
        self._opened: list[RemoteDrafter] = []
        self._failures = Counter[Address]()

    async def open(self, rule: ChoiceRule, capacity: int) -> SessionDrafter:
        instead = await self._instead.open(rule, capacity)
        self._count_failures()
        why = "no peer of the swarm drafts for this model"
        for peer in sorted(await self._find(), key=lambda peer: self._failures[peer.address]):
            drafter = RemoteDrafter(peer, instead, self._vocab_size)
            self._opened.append(drafter)
            await drafter.open(rule, capacity)
            if drafter.failure is None:
                return drafter
            why = str(drafter.failure)
        log.warning("%s; drafting with n-gram lookup", why)
        instead.name = f"{instead.name}: {why}"
        return instead

    def _count_failures(self) -> None:
        self._failures.update(drafter.peer.address for drafter in self._opened if drafter.failure is not None)
        self._opened = [drafter for drafter in self._opened if drafter.failure is None]
