"""A drafter peer and what its callers may ask of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.drafting.guessers import Seconded, Stepwise
from dsd_core.decoding.ids import TokenId
from dsd_core.errors import DsdError, OutOfCapacity, ProtocolError, Refused, TimedOut
from dsd_core.model.drafter import ModelDrafter
from dsd_core.model.span import Span
from dsd_core.network.status import error_of
from dsd_core.network.stubs import draft_stub
from dsd_core.wire.codec import rule_to_wire
from dsd_core.wire.drafts import TrunkSender, proposals_from_wire
from dsd_core.wire.v1.drafter_pb2 import (
    DescribeDrafterRequest,
    DraftContexts,
    OpenDrafts,
    StreamDraftsRequest,
    StreamDraftsResponse,
)
from dsd_node.quotas import Limits
from tests.conftest import LAYERS, POSITIONS, TinyModel, eventually
from tests.drafting.conftest import DrafterNode

Start = Callable[..., Awaitable[DrafterNode]]
RULE = ChoiceRule(SamplingParams(temperature=0.8, seed=4))
SECONDS = 5.0


class Asking:
    """A raw session, which says what a test wants said."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call = draft_stub(channel).StreamDrafts()

    async def say(self, **fields: Any) -> StreamDraftsResponse:
        """Raises what the peer ends the session with."""
        try:
            await self.call.write(StreamDraftsRequest(**fields))
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, "the drafter") from None
        return await self.hear()

    async def hear(self) -> StreamDraftsResponse:
        try:
            async with asyncio.timeout(SECONDS):
                answer = await self.call.read()
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, "the drafter") from None
        assert isinstance(answer, StreamDraftsResponse)
        return answer

    async def open(self, capacity: int = 100, **fields: Any) -> StreamDraftsResponse:
        return await self.say(open=OpenDrafts(capacity=capacity, sampling=rule_to_wire(RULE), **fields))


@asynccontextmanager
async def asking(node: DrafterNode) -> AsyncIterator[Asking]:
    async with node.dial() as channel:
        session = Asking(channel)
        try:
            yield session
        finally:
            session.call.cancel()


def a_question(*trunk: int) -> DraftContexts:
    return DraftContexts(trunk=trunk, tail_lengths=[0], steps=1, candidates=4)


async def test_a_peer_drafts_as_a_model_here_would(start_drafter: Start, drafter: TinyModel) -> None:
    node, sender = await start_drafter(drafter), TrunkSender()
    local = Stepwise(Seconded(ModelDrafter(Span.load(drafter.source, range(LAYERS)), RULE, 100)))
    trunk: list[TokenId] = [TokenId(token) for token in (5, 6, 7, 8, 5, 6)]
    async with asking(node) as session:
        await session.open()
        for step in range(8):
            tails = ((), (TokenId(3),), (TokenId(3), TokenId(step)))
            contexts = Contexts(tuple(trunk), tails)
            steps, candidates, least = 1 + step % 3, 1 + step % 4, 0.25 * (step // 2)
            answer = await session.say(contexts=sender.to_wire(contexts, steps=steps, candidates=candidates, least=least))
            assert answer.tokens
            got = proposals_from_wire(answer, contexts=3, steps=steps, candidates=candidates, vocab_size=320)
            expected = local.propose(contexts, steps=steps, candidates=candidates, least=least)
            assert [[[t.token for t in run] for run in each] for each in got] == [
                [[t.token for t in run] for run in each] for each in expected
            ]
            trunk.append(expected[0][0][0].token)
    await eventually(lambda: node.sessions == 0)


async def test_it_says_what_it_drafts_for(start_drafter: Start, drafter: TinyModel, target: TinyModel) -> None:
    node = await start_drafter(drafter)
    async with node.dial() as channel:
        said = await draft_stub(channel).DescribeDrafter(DescribeDrafterRequest(protocol_version=1), timeout=SECONDS)
        assert (said.model, said.vocab_size, said.max_positions) == (str(drafter), 320, POSITIONS)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await draft_stub(channel).DescribeDrafter(DescribeDrafterRequest(protocol_version=99, oldest_protocol_version=98))
        assert isinstance(error_of(refused.value, "it"), Refused)


@pytest.mark.parametrize(
    ("error", "opening"),
    [
        (ProtocolError, {"contexts": a_question(1)}),
        (Refused, {"open": OpenDrafts(capacity=0, sampling=rule_to_wire(RULE))}),
        (Refused, {"open": OpenDrafts(capacity=2**32 - 1, sampling=rule_to_wire(RULE))}),
        (ProtocolError, {"open": OpenDrafts(capacity=9)}),
    ],
    ids=["a question", "nothing", "too much", "no rule"],
)
async def test_how_a_session_must_not_begin(
    start_drafter: Start, drafter: TinyModel, error: type[DsdError], opening: dict[str, Any]
) -> None:
    node = await start_drafter(drafter)
    async with asking(node) as session:
        with pytest.raises(error):
            await session.say(**opening)
    assert node.sessions == 0


@pytest.mark.parametrize(
    "question", [a_question(320), a_question(*[1] * 101), DraftContexts()], ids=["not a token", "too long", "nothing"]
)
async def test_a_question_that_makes_no_sense_ends_the_session(
    start_drafter: Start, drafter: TinyModel, question: DraftContexts
) -> None:
    node = await start_drafter(drafter)
    async with asking(node) as session:
        await session.open()
        with pytest.raises(ProtocolError):
            await session.say(contexts=question)
        await eventually(lambda: node.sessions == 0)


async def test_after_no_tokens_there_is_nothing_to_say(start_drafter: Start, drafter: TinyModel) -> None:
    async with asking(await start_drafter(drafter)) as session:
        await session.open()
        assert (await session.say(contexts=a_question())).runs == [0]
        assert (await session.say(contexts=a_question(5))).runs == [4]


async def test_memory_is_shared_out_by_peer(start_drafter: Start, drafter: TinyModel) -> None:
    span = Span.load(drafter.source, range(LAYERS))
    node = await start_drafter(drafter, Limits(span.kv_bytes(1600)))
    async with asking(node) as first, asking(node) as second:
        await first.open(capacity=150)
        with pytest.raises(OutOfCapacity, match="you hold"):
            await second.open(capacity=100)
    await eventually(lambda: node.sessions == 0)


async def test_a_caller_who_vanishes_leaves_nothing_behind(start_drafter: Start, drafter: TinyModel) -> None:
    """At rest, while it is answered, and before it reads the answer."""
    node = await start_drafter(drafter)
    span, stores = node.service._engine.span, []
    reserve = span.reserve
    span.reserve = lambda slots: stores.append(reserve(slots)) or stores[-1]
    for pause in (0.05, 0.0, 0.002):
        async with asking(node) as session:
            await session.open()
            assert node.sessions == 1
            await session.call.write(StreamDraftsRequest(contexts=a_question(*[7] * 90)))
            await asyncio.sleep(pause)
        await eventually(lambda: node.sessions == 0)
    assert [store.closed for store in stores] == [True] * 3


async def test_an_idle_session_is_closed(start_drafter: Start, drafter: TinyModel) -> None:
    node = await start_drafter(drafter)
    async with asking(node) as session:
        await session.open(idle_seconds=1)
        with pytest.raises(TimedOut, match="1 idle seconds"):
            await session.hear()
    assert node.sessions == 0
