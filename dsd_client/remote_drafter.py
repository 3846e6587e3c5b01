"""Drafters of the swarm: a peer drafts for us, and when it stalls, lies or is gone, n-gram lookup does."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Self

import grpc.aio

from dsd_client.drafting import NgramSource, SessionDrafter
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.contexts import Contexts, Proposal
from dsd_core.errors import DsdError, NoPeers, PeerLost, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.status import error_of
from dsd_core.network.stubs import draft_stub
from dsd_core.wire import VERSIONS
from dsd_core.wire.codec import rule_to_wire
from dsd_core.wire.drafts import TrunkSender, proposals_from_wire
from dsd_core.wire.v1 import drafter_pb2
from dsd_core.wire.versions import versions_from_wire

log = logging.getLogger(__name__)

OPEN_SECONDS = 2.0
"""How long a peer may take to say that it drafts, and how long to open a session."""
SEARCH_SECONDS = 5.0
"""How long a peer is looked for in all. Drafts wait for that, and what waits for drafts: not streaming."""
ANSWER_SECONDS = 2.0
"""How long a request may take, and besides for each token that the peer has to read first."""
READ_SECONDS = 0.01
AVOID_SECONDS = 60.0
"""How long a peer that failed comes after all others."""


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
    """One session at a drafter peer. Once it has failed it is of no further use. Close it."""

    def __init__(self, peer: DrafterPeer, vocab_size: int) -> None:
        """Use it once it is open."""
        self.peer = peer
        self._vocab_size = vocab_size
        self._trunk = TrunkSender()
        self._call = draft_stub(peer.channel).StreamDrafts()

    async def open(self, rule: ChoiceRule, capacity: int) -> Self:
        """Itself. Raises what the peer said, and has closed it then."""
        opening = drafter_pb2.OpenDrafts(capacity=capacity, sampling=rule_to_wire(rule))
        try:
            await self._exchange(drafter_pb2.StreamDraftsRequest(open=opening), OPEN_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    async def propose(self, contexts: Contexts, *, steps: int, candidates: int, least: float) -> tuple[Proposal, ...]:
        """Raises DsdError for whatever the peer did wrong."""
        message = self._trunk.to_wire(contexts, steps=steps, candidates=candidates, least=least)
        seconds = ANSWER_SECONDS + READ_SECONDS * (len(message.trunk) + steps)
        answer = await self._exchange(drafter_pb2.StreamDraftsRequest(contexts=message), seconds)
        return proposals_from_wire(
            answer, contexts=len(contexts.tails), steps=steps, candidates=candidates, vocab_size=self._vocab_size
        )

    def close(self) -> None:
        """The end of the stream is the end of the session."""
        self._call.cancel()

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
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise PeerLost(f"the connection to {self.peer} was given up") from None  # as gRPC says it
        if not isinstance(answer, drafter_pb2.StreamDraftsResponse):
            raise PeerLost(f"{self.peer} ended the session")
        return answer


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class SwarmDrafter:
    """A session's drafter: a peer, which is looked for while the first frames are under way, and n-gram lookup where there is
    none. Whatever is wrong with the peer costs speed only."""

    is_local = False

    def __init__(
        self, find: Callable[[], Awaitable[RemoteDrafter]], instead: SessionDrafter, blame: Callable[[Address], None]
    ) -> None:
        """`find` opens a session, or raises DsdError where there is no peer; `blame` is told who failed later."""
        self.name = f"{instead.name}: a peer that drafts is being looked for"
        self._instead = instead
        self._blame = blame
        self._remote: RemoteDrafter | None = None
        self._opening = asyncio.create_task(self._open(find))
        self._asking = asyncio.Lock()

    async def opened(self) -> None:
        await asyncio.wait([self._opening])
        self._opening.result()  # a bug is nothing that costs speed only

    async def propose(
        self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0
    ) -> tuple[Proposal, ...]:
        async with self._asking:
            await self.opened()
            if self._remote is not None:
                try:
                    return await self._remote.propose(contexts, steps=steps, candidates=candidates, least=least)
                except DsdError as failure:
                    self._blame(self._remote.peer.address)
                    self._give_up(failure)
        return await self._instead.propose(contexts, steps=steps, candidates=candidates, least=least)

    async def close(self) -> None:
        self._opening.cancel()
        await asyncio.wait([self._opening])
        self._leave()
        await self._instead.close()

    async def _open(self, find: Callable[[], Awaitable[RemoteDrafter]]) -> None:
        try:
            self._remote = await find()
            self.name = str(self._remote.peer)
        except DsdError as failure:
            self._give_up(failure)

    def _give_up(self, failure: DsdError) -> None:
        log.warning("%s; drafting with n-gram lookup", failure)
        self.name = f"{self._instead.name}: {failure}"
        self._leave()

    def _leave(self) -> None:
        if self._remote is not None:
            self._remote.close()
        self._remote = None


class SwarmSource:
    """Drafts with a peer of the swarm: the first to answer of those that have not failed lately."""

    def __init__(
        self, find: Callable[[], AsyncGenerator[DrafterPeer, None]], instead: NgramSource, vocab_size: int
    ) -> None:
        """`find` tells the drafters that there are, the first to answer first."""
        self._find = find
        self._instead = instead
        self._vocab_size = vocab_size
        self._failed: dict[Address, float] = {}
        """When each failed last."""

    async def open(self, rule: ChoiceRule, capacity: int) -> SwarmDrafter:
        instead = await self._instead.open(rule, capacity)
        return SwarmDrafter(partial(self._opened, rule, capacity), instead, self._blame)

    async def _opened(self, rule: ChoiceRule, capacity: int) -> RemoteDrafter:
        """A session at the first peer that takes it. Raises what the last one said."""
        said: DsdError = NoPeers("no peer of the swarm drafts for this model")
        try:
            # What was opened is not lost to the deadline while the search is being closed.
            async with aclosing(self._candidates()) as peers, asyncio.timeout(SEARCH_SECONDS):
                async for peer in peers:
                    try:
                        return await RemoteDrafter(peer, self._vocab_size).open(rule, capacity)
                    except DsdError as failure:
                        self._blame(peer.address)
                        said = failure
        except TimeoutError:
            raise TimedOut(f"no peer of the swarm began to draft in {SEARCH_SECONDS:g} s") from None
        raise said

    async def _candidates(self) -> AsyncGenerator[DrafterPeer, None]:
        """Those that failed lately come last, whoever failed first before the others."""
        since = asyncio.get_running_loop().time() - AVOID_SECONDS
        self._failed = {address: failed_at for address, failed_at in self._failed.items() if failed_at > since}
        failed = []
        async with aclosing(self._find()) as peers:
            async for peer in peers:
                if peer.address in self._failed:
                    failed.append(peer)
                else:
                    yield peer
        for peer in sorted(failed, key=lambda peer: self._failed.get(peer.address, since)):
            yield peer

    def _blame(self, address: Address) -> None:
        self._failed[address] = asyncio.get_running_loop().time()
