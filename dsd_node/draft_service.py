"""The RPCs of a drafter: a small model that a peer runs for clients that have none."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.belief import Sharpness
from dsd_core.decoding.drafting.contexts import Drafter
from dsd_core.decoding.drafting.guessers import Seconded, Stepwise
from dsd_core.errors import ProtocolError, Refused, TimedOut
from dsd_core.model.drafter import ModelDrafter
from dsd_core.model.source import ModelSource
from dsd_core.model.tokenizer import load_tokenizer, vocabulary_hash
from dsd_core.network.identity import PeerId
from dsd_core.network.transport import Transport
from dsd_core.wire import VERSIONS
from dsd_core.wire.codec import SESSION_ID_BYTES, rule_from_wire
from dsd_core.wire.drafts import TrunkReceiver, proposals_to_wire
from dsd_core.wire.v1 import drafter_pb2, drafter_pb2_grpc
from dsd_core.wire.versions import versions_from_wire
from dsd_node.answering import answering
from dsd_node.engine import Engine
from dsd_node.metrics import Metrics
from dsd_node.quotas import Quotas

log = logging.getLogger(__name__)

MAX_IDLE_SECONDS = 600
MAX_BRANCHES = 1024
"""Tokens that a session may reserve beyond the model's positions, for branches."""


Context: TypeAlias = Any
"""gRPC's, which differs in type parameters from method to method."""


class DraftService(drafter_pb2_grpc.DraftServiceServicer):
    """A session lives as long as its stream. Sessions take turns at the engine, a request each."""

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
        self._sharpness = Sharpness()
        self._vocabulary = bytes.fromhex(vocabulary_hash(load_tokenizer(source)))

    async def DescribeDrafter(
        self, request: drafter_pb2.DescribeDrafterRequest, context: Context
    ) -> drafter_pb2.DescribeDrafterResponse:
        async with answering(context):
            theirs = versions_from_wire(request.protocol_version, request.oldest_protocol_version)
            VERSIONS.agree(theirs, peer="the caller")
        return drafter_pb2.DescribeDrafterResponse(
            protocol_version=VERSIONS.newest,
            oldest_protocol_version=VERSIONS.oldest,
            model=self._source.name,
            vocabulary_hash=self._vocabulary,
            vocab_size=self._source.vocab_size,
            max_positions=self._source.max_positions,
        )

    async def StreamDrafts(
        self, request_iterator: AsyncIterator[drafter_pb2.StreamDraftsRequest], context: Context
    ) -> AsyncIterator[drafter_pb2.StreamDraftsResponse]:
        async with answering(context):
            owner = self._transport.caller(context)
            first = await _next(request_iterator, MAX_IDLE_SECONDS)
            if first is None or not first.HasField("open"):
                raise ProtocolError("a stream of drafts begins with how its session is to be opened")
            idle_seconds = min(first.open.idle_seconds or MAX_IDLE_SECONDS, MAX_IDLE_SECONDS)
            async with self._session(owner, first.open) as drafter:
                yield drafter_pb2.StreamDraftsResponse()
                trunk = TrunkReceiver(first.open.capacity, self._engine.span.vocab_size)
                while request := await _next(request_iterator, idle_seconds):
                    yield await self._draft(drafter, trunk, request.contexts)
                    self._quotas.remember(owner)

    async def _draft(
        self, drafter: Drafter, trunk: TrunkReceiver, message: drafter_pb2.DraftContexts
    ) -> drafter_pb2.StreamDraftsResponse:
        contexts = trunk.from_wire(message)
        steps, candidates, least = message.steps, message.candidates, message.least
        asked_at = time.perf_counter()
        proposals = await self._engine.run(
            lambda: drafter.propose(contexts, steps=steps, candidates=candidates, least=least)
        )
        self._metrics.on_drafted(time.perf_counter() - asked_at)
        return proposals_to_wire(proposals)

    @asynccontextmanager
    async def _session(self, owner: PeerId, request: drafter_pb2.OpenDrafts) -> AsyncIterator[Drafter]:
        """The quota first: a peer that may not have the memory costs no work."""
        rule = rule_from_wire(request.sampling)
        capacity, most = request.capacity, self._source.max_positions + MAX_BRANCHES
        if not 0 < capacity <= most:
            raise Refused(f"the drafter has room for 1 to {most} tokens, not {capacity}; ask for fewer")
        session_id = secrets.token_bytes(SESSION_ID_BYTES)
        self._quotas.open_session(session_id, owner, self._engine.span.kv_bytes(capacity))
        try:
            drafter = await self._engine.run(lambda: self._drafter(rule, capacity))
            log.info("drafting session %s opened: %d tokens", session_id.hex()[:8], capacity)
            try:
                yield drafter
            finally:
                await self._engine.run(drafter.close)
        finally:
            self._quotas.close_session(session_id)
            log.info("drafting session %s closed", session_id.hex()[:8])

    def _drafter(self, rule: ChoiceRule, capacity: int) -> Drafter:
        positions = self._source.max_positions
        model = ModelDrafter(self._engine.span, rule, capacity, positions=positions, sharpness=self._sharpness)
        return Stepwise(Seconded(model))


async def _next(
    requests: AsyncIterator[drafter_pb2.StreamDraftsRequest], seconds: float
) -> drafter_pb2.StreamDraftsRequest | None:
    """The next message of a stream; None at its end. Raises TimedOut."""
    try:
        async with asyncio.timeout(seconds):
            return await anext(requests, None)
    except TimeoutError:
        raise TimedOut(f"the session was closed after {seconds:.0f} idle seconds; open a new one") from None
