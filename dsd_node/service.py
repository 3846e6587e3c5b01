"""The RPCs of a stage."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, TypeAlias

from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.errors import DsdError, ProtocolError, Refused, TimedOut, UsageError
from dsd_core.membership.record import State
from dsd_core.model import tensors
from dsd_core.model.kv import KvStore
from dsd_core.model.memory import available_bytes, give_back
from dsd_core.model.source import ModelSource
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId, peer_id_of
from dsd_core.network.transport import Transport
from dsd_core.wire import VERSIONS
from dsd_core.wire.codec import rule_from_wire, session_id_from_wire
from dsd_core.wire.hidden import dtype_to_wire
from dsd_core.wire.v1 import stage_pb2, stage_pb2_grpc
from dsd_core.wire.versions import versions_from_wire
from dsd_node.answering import answering as _answering
from dsd_node.downstream import Channels, Downstream
from dsd_node.engine import Engine
from dsd_node.metrics import Metrics
from dsd_node.openings import Openings
from dsd_node.quotas import MAX_SESSIONS, PEER_SHARE, Limits, Quotas
from dsd_node.served_session import ServedSession, session_ended

log = logging.getLogger(__name__)

MAX_IDLE_SECONDS = 1800
DRAIN_LOOK_SECONDS = 0.05
OPENING_SECONDS = 10.0
"""How long a stream may come before its session: the request to open it goes another way, and may wait for its turn there."""
KV_MEMORY = 0.8
"""Of what is left once the span is loaded, the part that is promised to sessions."""

Context: TypeAlias = Any
"""gRPC's, which differs in type parameters from method to method."""


class StageService(stage_pb2_grpc.StageServiceServicer):
    """Opens sessions, and lets each RPC reach the one that it names."""

    def __init__(
        self,
        source: ModelSource,
        engine: Engine,
        transport: Transport,
        quotas: Quotas,
        metrics: Metrics | None = None,
    ) -> None:
        self._source = source
        self._engine = engine
        self._transport = transport
        self._quotas = quotas
        self._metrics = metrics or Metrics()
        self._channels = Channels(transport)
        self._sessions: dict[bytes, ServedSession] = {}
        self._openings = Openings()
        self._closing: set[asyncio.Task[None]] = set()
        self._untidy = False
        """A session was closed since `tidy` last gave back what it had used."""
        self._draining = False

    async def Describe(self, request: stage_pb2.DescribeRequest, context: Context) -> stage_pb2.DescribeResponse:
        async with _answering(context):
            theirs = versions_from_wire(request.protocol_version, request.oldest_protocol_version)
            VERSIONS.agree(theirs, peer="the caller")
        span = self._engine.span
        return stage_pb2.DescribeResponse(
            protocol_version=VERSIONS.newest,
            oldest_protocol_version=VERSIONS.oldest,
            model=self._source.name,
            manifest_hash=bytes.fromhex(self._source.manifest_hash),
            first_layer=span.layers.start,
            end_layer=span.layers.stop,
            num_layers=self._source.num_layers,
            hidden_size=self._source.hidden_size,
            vocab_size=self._source.vocab_size,
            dtype=dtype_to_wire(tensors.wire_dtype(span.dtype)),
            max_positions=self._source.max_positions,
            draining=self._draining,
        )

    async def OpenSession(self, request: stage_pb2.OpenSessionRequest, context: Context) -> stage_pb2.OpenSessionResponse:
        async with _answering(context):
            owner = self._transport.caller(context)
            session_id = session_id_from_wire(request.session_id)
            rule = self._rule(request)
            upstream = _peer(request.upstream_peer) if request.upstream_peer else owner
            next_stage = _next_stage(request)
            self._check_room(session_id, request.capacity)
            kv, downstream = await self._reserve(session_id, owner, request.capacity, next_stage)
            self._sessions[session_id] = ServedSession(
                self._engine,
                kv,
                owner=owner,
                upstream=upstream,
                downstream=downstream,
                rule=rule,
                metrics=self._metrics,
                idle_seconds=min(request.idle_seconds or MAX_IDLE_SECONDS, MAX_IDLE_SECONDS),
                now=asyncio.get_running_loop().time(),
            )
            self._openings.happened(session_id)
            await asyncio.sleep(0)  # A stream that has waited for this goes first.
            log.info("session %s opened: %d positions, %d bytes", session_id.hex()[:8], kv.capacity, kv.nbytes)
        return stage_pb2.OpenSessionResponse(reserved_bytes=kv.nbytes)

    async def CloseSession(self, request: stage_pb2.CloseSessionRequest, context: Context) -> stage_pb2.CloseSessionResponse:
        async with _answering(context):
            session = self._sessions.get(bytes(request.session_id))
            if session is not None and session.owner == self._transport.caller(context):
                await self._close(bytes(request.session_id), session_ended())
        return stage_pb2.CloseSessionResponse()

    async def StreamFrames(
        self, request_iterator: AsyncIterator[stage_pb2.StreamFramesRequest], context: Context
    ) -> stage_pb2.StreamFramesResponse:
        async with _answering(context):
            first = await _first(request_iterator)
            session_id = bytes(first.session_id)
            session = await self._session(session_id, upstream=self._transport.caller(context), first=first)
            session.attach()
            ended: DsdError = session_ended()
            try:
                await session.serve(request_iterator, first)
            except DsdError as error:
                ended = error
                raise
            finally:
                await self._close(session_id, ended)
        return stage_pb2.StreamFramesResponse()

    async def StreamVerdicts(
        self, request: stage_pb2.StreamVerdictsRequest, context: Context
    ) -> AsyncIterator[stage_pb2.StreamVerdictsResponse]:
        async with _answering(context):
            session = await self._session(bytes(request.session_id), owner=self._transport.caller(context))
            async for batch in session.verdicts():
                yield batch

    async def close_idle(self, *, every: float = 1.0) -> None:
        """Runs as long as the node does: closes sessions that get no frames, or cannot pass them on."""
        while True:
            await asyncio.sleep(every)
            now = asyncio.get_running_loop().time()
            for session_id, session in list(self._sessions.items()):
                if reason := session.overdue(now):
                    await self._close(session_id, reason)

    async def tidy(self, *, every: float = 1.0) -> None:
        """Runs as long as the node does: gives back what frames were computed in once the last session has been closed."""
        while True:
            await asyncio.sleep(every)
            if self._untidy and not self._sessions:
                self._untidy = False
                await self._engine.run(give_back)

    @property
    def state(self) -> State:
        return State.DRAINING if self._draining else State.SERVING

    async def drain(self) -> None:
        """Refuse new sessions and tell the owners of the others to move them; returns when none is left."""
        self._draining = True
        while self._sessions:
            for session in self._sessions.values():
                session.draining = True
            await asyncio.sleep(DRAIN_LOOK_SECONDS)

    async def close(self) -> None:
        """End every session and every channel."""
        for session_id in list(self._sessions):
            await self._close(session_id, session_ended())
        await asyncio.gather(*self._closing)
        await self._channels.close()

    def _rule(self, request: stage_pb2.OpenSessionRequest) -> ChoiceRule | None:
        """How tokens are chosen, where the model ends; elsewhere frames go on to a named peer."""
        ends = self._engine.span.ends
        if ends != request.HasField("sampling") or ends == bool(request.downstream and request.downstream_peer):
            raise ProtocolError("a session names a downstream stage, or, where the model ends, how tokens are chosen")
        return rule_from_wire(request.sampling) if ends else None

    async def _reserve(
        self, session_id: bytes, owner: PeerId, capacity: int, next_stage: tuple[Address, PeerId] | None
    ) -> tuple[KvStore, Downstream | None]:
        """The quota first: a peer that may not have the memory costs no work, and nobody is dialled for it."""
        self._quotas.open_session(session_id, owner, self._engine.span.kv_bytes(capacity))
        with ExitStack() as undo:
            undo.callback(self._quotas.close_session, session_id)
            downstream = await self._channels.downstream(*next_stage, session_id) if next_stage else None
            if downstream is not None:
                undo.callback(downstream.close)
            kv = await self._engine.reserve(capacity)
            undo.pop_all()
        return kv, downstream

    def _check_room(self, session_id: bytes, capacity: int) -> None:
        if self._draining:
            raise Refused("the node is being shut down and takes no more sessions; open this one at another")
        if session_id in self._quotas:
            raise Refused("there is a session of this id; draw another")
        if not 0 < capacity <= self._source.max_positions:
            raise Refused(f"the model serves 1 to {self._source.max_positions} positions, not {capacity}; ask for fewer")

    async def _session(
        self,
        session_id: bytes,
        *,
        owner: PeerId | None = None,
        upstream: PeerId | None = None,
        first: stage_pb2.StreamFramesRequest | None = None,
    ) -> ServedSession:
        """The session, once it is open, for its owner or its upstream; others learn no more than if there were none."""
        with suppress(TimeoutError):
            async with asyncio.timeout(OPENING_SECONDS):
                while True:
                    session = self._sessions.get(session_id)
                    if session is not None and owner in (None, session.owner) and upstream in (None, session.upstream):
                        return session
                    await self._openings.next(session_id, holding=first.ByteSize() if first else 0)
        raise Refused("there is no such session here; it may have been closed as idle. Open a new one")

    async def _close(self, session_id: bytes, reason: DsdError) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            # Its caller may leave while the engine still computes a frame of it; all is given back nevertheless.
            closing = asyncio.create_task(self._give_back(session_id, session, reason))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.shield(closing)

    async def _give_back(self, session_id: bytes, session: ServedSession, reason: DsdError) -> None:
        await session.close(reason)
        self._untidy = True
        self._quotas.close_session(session_id)
        if session.has_computed:
            self._quotas.remember(session.owner)
            self._quotas.remember(session.upstream)
        log.info("session %s closed: %s", session_id.hex()[:8], reason)


def limits_of(engine: Engine, source: ModelSource, peer_share: float = PEER_SHARE) -> Limits:
    """What a node with this span has to share out."""
    limits = Limits(engine.span.kv_bytes(source.max_positions) * MAX_SESSIONS, peer_share=peer_share)
    available = available_bytes(engine.span.device)
    return limits if available is None else replace(limits, kv_bytes=min(limits.kv_bytes, int(available * KV_MEMORY)))


async def _first(requests: AsyncIterator[stage_pb2.StreamFramesRequest]) -> stage_pb2.StreamFramesRequest:
    """What a stream begins with. Raises TimedOut: before that, no session's idle limit ends it."""
    try:
        async with asyncio.timeout(MAX_IDLE_SECONDS):
            return await anext(requests, stage_pb2.StreamFramesRequest())
    except TimeoutError:
        raise TimedOut(f"the stream has named no session for {MAX_IDLE_SECONDS} seconds; open a new one") from None


def _next_stage(request: stage_pb2.OpenSessionRequest) -> tuple[Address, PeerId] | None:
    """Raises ProtocolError for what is no address, or nobody's key."""
    if not request.downstream:
        return None
    peer = _peer(request.downstream_peer)
    try:
        return Address.parse(request.downstream), peer
    except UsageError as error:
        raise ProtocolError(str(error)) from None


def _peer(public_key: bytes) -> PeerId:
    """Raises ProtocolError for bytes that are nobody's key."""
    try:
        return peer_id_of(public_key)
    except UsageError as error:
        raise ProtocolError(str(error)) from None
