"""Answers drafted by a peer: the same text as ever, whatever the peer does."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dsd_client import Client, SamplingParams, relaxation
from dsd_client import remote_drafter as module
from dsd_client.drafting import NgramSource
from dsd_client.remote_drafter import DrafterPeer, SwarmSource
from dsd_core.model.compute_thread import ComputeThread
from dsd_core.model.tokenizer import vocabulary_hash
from dsd_core.network.address import Address
from dsd_core.network.transport import Secure
from dsd_core.wire.v1.drafter_pb2 import DraftContexts, StreamDraftsResponse
from dsd_node.quotas import Limits
from tests.client.conftest import PROMPT
from tests.conftest import InProcessSwarm, TinyModel, eventually
from tests.drafting.conftest import Answer, DrafterNode

Start = Callable[..., Awaitable[DrafterNode]]
Script = Callable[[Answer], Awaitable[DrafterNode]]
NEW = 24
BLOCKING: Any = {"speculation": "blocking", "lookahead": 4}
"""Waits for every draft, so that what becomes of it is certain."""


@pytest.fixture
def reference(target: TinyModel) -> Any:
    prompt = target.tokenizer(PROMPT)["input_ids"]
    return target.greedy(prompt, NEW)


async def answer(swarm: InProcessSwarm, target: TinyModel, *nodes: DrafterNode, **options: Any) -> Any:
    join = [*swarm.addresses, *(node.address for node in nodes)]
    async with Client(join, str(target), "swarm") as client:
        return await client.generate(PROMPT, max_new_tokens=NEW, **BLOCKING | options)


async def test_a_peer_drafts_as_a_local_model_would(
    start_drafter: Start, two_stages: InProcessSwarm, target: TinyModel, drafter: TinyModel, reference: Any
) -> None:
    node = await start_drafter(drafter)
    for sampling in (SamplingParams(), SamplingParams(temperature=0.8, seed=3)):
        ours = await answer(two_stages, target, node, sampling=sampling)
        async with Client(two_stages.addresses, str(target), str(drafter)) as client:
            local = await client.generate(PROMPT, max_new_tokens=NEW, sampling=sampling, **BLOCKING)
        assert ours.token_ids == local.token_ids
        assert ours.stats.accepted > NEW / 4
        assert ours.stats.drafter == f"the drafter at {node.address}"
        assert local.stats.drafter == f"{drafter} and ngram"
    await eventually(lambda: node.sessions == 0)


async def test_without_a_peer_lookup_drafts(two_stages: InProcessSwarm, target: TinyModel, reference: Any) -> None:
    result = await answer(two_stages, target)
    reference.assert_same(result.token_ids)
    assert result.stats.drafter == "ngram: no peer of the swarm drafts for this model"
    assert result.stats.drafted > 0


async def test_a_peer_of_another_vocabulary_is_not_asked(script: Script, two_stages: InProcessSwarm, target: TinyModel) -> None:
    node = await script(lambda _: None)
    node.service.vocabulary = "00" * 32
    result = await answer(two_stages, target, node)
    assert result.stats.drafter == "ngram: no peer of the swarm drafts for this model"
    assert not node.service.opened


def said(message: DraftContexts, token: int, **changes: Any) -> StreamDraftsResponse:
    """One candidate for each context."""
    count = len(message.tail_lengths)
    columns = {"runs": [1] * count, "run_lengths": [1] * count, "tokens": [token] * count, "confidences": [0.5] * count}
    return StreamDraftsResponse(**columns | changes)


LIES: dict[str, tuple[Answer, str]] = {
    "a token of no vocabulary": (lambda asked: said(asked, 320), "token 320 is not in the vocabulary"),
    "a token that is huge": (lambda asked: said(asked, 2**32 - 1), "is not in the vocabulary"),
    "certainty and more": (lambda asked: said(asked, 5, confidences=[2.0]), "confidences"),
    "not a number": (lambda asked: said(asked, 5, confidences=[float("nan")]), "confidences"),
    "more than was asked": (lambda asked: said(asked, 5, runs=[9], run_lengths=[1] * 9), "too many candidates"),
    "columns that differ": (lambda asked: said(asked, 5, tokens=[]), "differ in length"),
    "the end": (lambda _: None, "ended the session"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_peer_that_lies_is_left(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any, lie: str
) -> None:
    says, why = LIES[lie]
    node = await script(says)
    result = await answer(two_stages, target, node)
    reference.assert_same(result.token_ids)
    assert len(node.service.asked) == 1
    assert result.stats.drafter.startswith("ngram: ")
    assert why in result.stats.drafter


@pytest.mark.parametrize("token", [0, 7, 319])
async def test_a_peer_that_is_always_wrong_costs_speed_only(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any, token: int
) -> None:
    node = await script(lambda asked: said(asked, token, confidences=[1.0]))
    result = await answer(two_stages, target, node)
    reference.assert_same(result.token_ids)
    assert result.stats.drafter == f"the drafter at {node.address}"


async def test_a_peer_that_stalls_is_left(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    node = await script(lambda _: asyncio.Event().wait())
    result = await answer(two_stages, target, node)
    reference.assert_same(result.token_ids)
    assert "did not answer in" in result.stats.drafter
    assert len(node.service.asked) == 1


async def test_a_streaming_answer_does_not_wait_for_a_peer_that_stalls(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any
) -> None:
    node = await script(lambda _: asyncio.Event().wait())
    async with asyncio.timeout(module.ANSWER_SECONDS * 8):
        result = await answer(two_stages, target, node, speculation="streaming", lookahead=None)
    reference.assert_same(result.token_ids)
    assert len(node.service.asked) == 1


async def test_a_peer_that_dies_amid_an_answer(
    start_drafter: Start, two_stages: InProcessSwarm, target: TinyModel, drafter: TinyModel, reference: Any
) -> None:
    node = await start_drafter(drafter)
    tokens: list[int] = []
    async with (
        Client([*two_stages.addresses, node.address], str(target), "swarm") as client,
        client.conversation(positions=200, **BLOCKING) as answers,
    ):
        async for chunk in answers.ask(client.target.tokens(PROMPT), max_new_tokens=NEW):
            tokens += chunk.token_ids
            if len(tokens) < 6:
                continue
            await node.kill()
        assert answers.result.stats.drafter.startswith(f"ngram: the drafter at {node.address}")
    reference.assert_same(tokens)


async def test_a_connection_that_is_closed_under_a_question(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any
) -> None:
    """gRPC says so by cancelling what waits for the answer, which nobody else has cancelled."""
    node = await script(lambda _: asyncio.Event().wait())
    async with (
        Client([*two_stages.addresses, node.address], str(target), "swarm") as client,
        client.conversation(positions=200, **BLOCKING) as answers,
    ):

        async def read() -> list[int]:
            chunks = answers.ask(client.target.tokens(PROMPT), max_new_tokens=NEW)
            return [token async for chunk in chunks for token in chunk.token_ids]

        answering = asyncio.create_task(read())
        await eventually(lambda: bool(node.service.asked))
        assert client._swarm is not None
        await client._swarm._channels[Address.parse(node.address), node.peer].close()
        async with asyncio.timeout(30):
            reference.assert_same(await answering)
        assert answers.result.stats.drafter.startswith("ngram: the connection to the drafter at")


async def test_who_claims_a_drafters_address_takes_nothing_from_it(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any
) -> None:
    """Neither the channel of whoever is asked there nor, once that has answered, the address."""
    claimed: list[bool] = []
    claim: Any = SimpleNamespace(addresses=(), peer=Secure.kept_in(None).peer_id)

    async def meanwhile() -> StreamDraftsResponse:
        swarm = client._swarm
        assert swarm is not None
        claimed.append(swarm._may_be_at(claim))
        await swarm._channel_to(claim.addresses[0], claim.peer)
        return said(node.service.asked[-1], 5)

    node = await script(lambda _: meanwhile())
    claim.addresses = (Address.parse(node.address),)
    async with Client([*two_stages.addresses, node.address], str(target), "swarm") as client:
        result = await client.generate(PROMPT, max_new_tokens=NEW, **BLOCKING)
    reference.assert_same(result.token_ids)
    assert result.stats.drafter == f"the drafter at {node.address}"
    assert claimed
    assert not any(claimed)


async def test_a_peer_that_is_full_is_passed_over(
    start_drafter: Start, two_stages: InProcessSwarm, target: TinyModel, drafter: TinyModel, reference: Any
) -> None:
    full, free = await start_drafter(drafter, Limits(kv_bytes=64)), await start_drafter(drafter)
    result = await answer(two_stages, target, full, free)
    reference.assert_same(result.token_ids)
    assert result.stats.drafter == f"the drafter at {free.address}"
    alone = await answer(two_stages, target, full)
    assert alone.stats.drafter.startswith("ngram: you may hold")


@pytest.mark.parametrize("where", ["describing", "opening"])
async def test_a_streaming_answer_does_not_wait_for_a_peer_to_be_found(
    script: Script,
    two_stages: InProcessSwarm,
    target: TinyModel,
    reference: Any,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    monkeypatch.setattr(module, "OPEN_SECONDS", 600.0)
    monkeypatch.setattr(module, "SEARCH_SECONDS", 600.0)
    node = await script(lambda _: None)
    node.service.stalls_at = where
    async with asyncio.timeout(60):
        result = await answer(two_stages, target, node, speculation="streaming", lookahead=None)
    reference.assert_same(result.token_ids)
    assert result.stats.drafter == "ngram: a peer that drafts is being looked for"


async def test_an_inexact_answer_does_not_wait_for_a_peer_to_be_found_either(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long it drafts would say how much is forgiven."""
    monkeypatch.setattr(module, "OPEN_SECONDS", 600.0)
    monkeypatch.setattr(module, "SEARCH_SECONDS", 600.0)
    monkeypatch.setattr(relaxation, "DRAFTER_SECONDS", 0.1)
    node = await script(lambda _: None)
    node.service.stalls_at = "describing"
    async with asyncio.timeout(60):
        result = await answer(two_stages, target, node, speculation="streaming", lookahead=None, acceptance="adaptive")
    reference.assert_same(result.token_ids)
    assert (result.stats.acceptance_mode, result.stats.acceptance_note) == ("exact", relaxation.NO_DRAFTER)


async def test_a_bug_in_the_search_is_not_taken_for_a_peer_that_is_not_there(
    two_stages: InProcessSwarm, target: TinyModel
) -> None:
    async def find() -> AsyncGenerator[DrafterPeer, None]:
        raise ZeroDivisionError
        yield

    thread = ComputeThread("ngram")
    drafters = SwarmSource(find, NgramSource(thread), target.source.vocab_size)
    async with Client(two_stages.addresses, str(target), drafters) as client:
        with pytest.raises(ZeroDivisionError):
            await client.generate(PROMPT, max_new_tokens=8, **BLOCKING)
    thread.close()


async def test_one_deadline_holds_for_all_peers_that_stall(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, reference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEARCH_SECONDS", 0.5)
    nodes = [await script(lambda _: None) for _ in range(3)]
    for node in nodes:
        node.service.stalls_at = "opening"
    result = await answer(two_stages, target, *nodes)
    reference.assert_same(result.token_ids)
    assert result.stats.drafter == "ngram: no peer of the swarm began to draft in 0.5 s"
    assert result.stats.drafted > 0
    assert sum(len(node.service.opened) for node in nodes) == 1


async def test_a_peer_that_answers_is_not_kept_waiting_by_one_that_does_not(
    script: Script, start_drafter: Start, two_stages: InProcessSwarm, target: TinyModel, drafter: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "OPEN_SECONDS", 600.0)
    frozen, honest = await script(lambda _: None), await start_drafter(drafter)
    frozen.service.stalls_at = "describing"
    async with asyncio.timeout(60):
        result = await answer(two_stages, target, frozen, honest)
    assert result.stats.drafter == f"the drafter at {honest.address}"


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_a_peer_that_failed_comes_last_for_a_while(
    script: Script,
    start_drafter: Start,
    two_stages: InProcessSwarm,
    target: TinyModel,
    drafter: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    is_forgotten: bool,
) -> None:
    if is_forgotten:
        monkeypatch.setattr(module, "AVOID_SECONDS", 0.0)
    liar, honest = await script(lambda asked: said(asked, 320)), await start_drafter(drafter)
    vocabulary = vocabulary_hash(target.tokenizer)

    async def find() -> AsyncGenerator[DrafterPeer, None]:
        for node in (liar, honest):
            yield DrafterPeer(Address.parse(node.address), node.dial(), vocabulary)

    thread = ComputeThread("ngram")
    drafters = SwarmSource(find, NgramSource(thread), target.source.vocab_size)
    async with Client(two_stages.addresses, str(target), drafters) as client:
        names = [(await client.generate(PROMPT, max_new_tokens=8, **BLOCKING)).stats.drafter for _ in range(3)]
    thread.close()
    assert "token 320" in names[0]
    if is_forgotten:
        assert names[1:] == names[:1] * 2
    else:
        assert names[1:] == [f"the drafter at {honest.address}"] * 2


async def test_a_peer_is_not_blamed_for_an_answer_that_was_left(
    script: Script, two_stages: InProcessSwarm, target: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    slow = await script(lambda _: asyncio.Event().wait())
    async with Client([*two_stages.addresses, slow.address], str(target), "swarm") as client:
        async with client.conversation(positions=200) as answers:
            async for _ in answers.ask(client.target.tokens(PROMPT), max_new_tokens=NEW):
                if slow.service.asked:
                    break
        assert slow.service.asked
        drafters = client._drafter
        assert isinstance(drafters, SwarmSource)
        assert not drafters._failed
    assert not [record for record in caplog.records if "drafter" in record.getMessage() and record.levelname == "WARNING"]
