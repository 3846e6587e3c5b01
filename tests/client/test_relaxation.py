"""Adaptive acceptance, from the options to the figures."""

import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
import torch

from dsd_client import Client, Origin, Result, SamplingParams
from dsd_client import lane_link as lane_link_module
from dsd_client import relaxation as relaxation_module
from dsd_client.relaxation import LOCAL_HOP_SECONDS, network_seconds
from dsd_core.decoding.choice.acceptance import LATE_WINDOW
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.events import FinishReason
from dsd_core.decoding.frames import Candidate, Verdict
from dsd_core.decoding.lookahead import guard
from dsd_core.errors import UsageError
from dsd_core.model import token_classes
from dsd_core.wire.codec import rule_to_wire
from tests.client.test_routes import PEERS, record, stage
from tests.conftest import LAYERS, InProcessNode, InProcessSwarm, TinyModel

NEW = 48
LAX = {"acceptance": "adaptive", "tolerance": 20.0, "latency_factor": 1.0, "candidates": 1}
DRAFTING = {**LAX, "speculation": "blocking", "lookahead": 4}
"""Streaming may find, on a busy machine, that drafting does not pay, and then there is nothing to forgive."""
LONG = [5, 6, 7, 40, 41]
"""A prompt with a long answer."""
WARM = 0.9
"""A temperature at which the two models of the tests differ often enough."""


@pytest_asyncio.fixture(loop_scope="session")
async def client(
    swarms: dict[int, InProcessSwarm], target: TinyModel, drafter: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Client]:
    """A new one: what another has learnt of these small stages is that drafting does not pay, and then there is nothing to
    forgive. Nor does it find that out before an answer is over."""
    monkeypatch.setattr(guard, "LOOK_TOKENS", NEW)
    async with Client(swarms[2].addresses, str(target), str(drafter)) as client:
        yield client


async def ask(client: Client, prompt: list[int], temperature: float = 0.0, **options: Any) -> Result:
    sampling = SamplingParams(temperature=temperature, seed=11)
    return await client.generate(prompt, max_new_tokens=NEW, sampling=sampling, **options)


@pytest.mark.parametrize("speculation", ["blocking", "streaming"])
async def test_what_is_forgiven_is_told(client: Client, prompt: list[int], speculation: str) -> None:
    result = await ask(client, prompt, WARM, speculation=speculation, lookahead=4, **LAX)
    stats, relaxed = result.stats, [token for token in result.tokens if token.origin is Origin.RELAXED]
    assert stats.acceptance_mode == "adaptive"
    assert stats.relaxed == len(relaxed) > 0
    assert stats.new_tokens == stats.accepted + stats.recovered + stats.bonus == len(result.tokens)
    assert stats.drift_nats == pytest.approx(sum(token.drift for token in relaxed))
    assert stats.drift_max_nats == max(token.drift for token in relaxed) <= stats.tolerance
    assert all(token.drift > 0 for token in relaxed)
    assert all(token.drift == 0 for token in result.tokens if token.origin is not Origin.RELAXED)
    assert (stats.tolerance, stats.latency_factor, stats.drift_budget) == (20.0, 1.0, None)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("acceptance", ["adaptive", "late"])
@pytest.mark.parametrize("strict", [{"tolerance": 0.0}, {"latency_factor": 0.0}, {"drift_budget": 0.0}])
async def test_with_nothing_to_forgive_the_text_is_the_exact_one(
    client: Client, prompt: list[int], temperature: float, strict: dict[str, float], acceptance: str
) -> None:
    exact = await ask(client, prompt, temperature)
    adaptive = await ask(client, prompt, temperature, **LAX | strict | {"acceptance": acceptance})
    assert adaptive.token_ids == exact.token_ids
    assert adaptive.stats.relaxed == adaptive.stats.drift_nats == 0
    assert exact.stats.acceptance_note == ""


async def test_what_is_forgiven_late_has_its_evidence_behind_it(client: Client, prompt: list[int]) -> None:
    result = await ask(client, prompt, WARM, speculation="blocking", lookahead=8, **LAX | {"acceptance": "late"})
    origins = [token.origin for token in result.tokens]
    rows = [origins[place + 1 : place + 1 + LATE_WINDOW] for place, origin in enumerate(origins) if origin is Origin.RELAXED]
    assert result.stats.acceptance_mode == "late"
    assert result.stats.relaxed == len(rows) > 0
    assert all(set(row) == {Origin.ACCEPTED} for row in rows)


async def test_a_fixed_tolerance_is_named_as_one(client: Client, prompt: list[int]) -> None:
    result = await ask(client, prompt, WARM, **LAX | {"acceptance": "fixed"})
    assert result.stats.acceptance_mode == "fixed"
    assert result.stats.relaxed > 0


async def test_a_mode_that_forgives_nothing_is_not_called_adaptive(client: Client, prompt: list[int]) -> None:
    local = await ask(client, prompt, **LAX | {"latency_factor": 0.0})
    assert (local.stats.acceptance_mode, local.stats.acceptance_note) == ("exact", "there is no latency to hide")
    plain = await ask(client, prompt, speculation="off", **LAX)
    assert plain.stats.acceptance_mode == "exact"
    assert "nothing is drafted" in plain.stats.acceptance_note


async def test_a_tokenizer_without_classes_is_gone_without_and_said(
    client: Client, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_classes, "key_tokens", lambda *_: None)
    result = await ask(client, prompt, WARM, **LAX)
    assert result.stats.acceptance_mode == "adaptive"
    assert "statistics alone" in result.stats.acceptance_note
    assert result.stats.relaxed > 0


async def test_an_answer_gives_away_no_more_than_its_budget(client: Client, prompt: list[int]) -> None:
    free = await ask(client, prompt, WARM, **DRAFTING)
    bound = await ask(client, prompt, WARM, **DRAFTING, drift_budget=free.stats.drift_nats / 2)
    assert bound.stats.drift_nats <= free.stats.drift_nats / 2 == bound.stats.drift_budget
    assert free.stats.drift_nats > 0


async def test_statistics_are_not_shown_to_who_did_not_ask(client: Client, prompt: list[int]) -> None:
    assert all(token.top == () and token.log_prob is None for token in (await ask(client, prompt, **LAX)).tokens)
    asked = await ask(client, prompt, WARM, **DRAFTING, logprobs=2)
    assert all(len(token.top) == 2 for token in asked.tokens)
    assert any(token.origin is Origin.RELAXED and token.log_prob != token.top[0].log_prob for token in asked.tokens)


async def test_a_stage_that_sends_no_statistics_is_served_exactly(
    client: Client, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(rule: ChoiceRule) -> Any:
        return rule_to_wire(replace(rule, top_count=0))

    monkeypatch.setattr(lane_link_module, "rule_to_wire", forgetful)
    result = await ask(client, prompt, **LAX)
    assert result.token_ids == (await ask(client, prompt)).token_ids
    assert result.stats.acceptance_mode == "exact"
    assert "sends no statistics" in result.stats.acceptance_note


async def test_latency_opens_the_tolerance(client: Client, prompt: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def adaptive() -> Any:
        return ask(client, prompt, WARM, **DRAFTING | {"latency_factor": None})

    monkeypatch.setattr(relaxation_module, "network_seconds", lambda _: 0.0)
    assert (await adaptive()).stats.latency_factor == 0
    monkeypatch.setattr(relaxation_module, "network_seconds", lambda _: 60.0)
    far = await adaptive()
    assert far.stats.latency_factor == 1
    assert far.stats.relaxed > 0


@pytest.mark.parametrize(
    "options",
    [
        {"acceptance": "lax"},
        *({"tolerance": nats} for nats in (-1.0, 1e9, math.inf, math.nan)),
        *({"drift_budget": nats} for nats in (-0.1, math.inf, math.nan)),
        *({"latency_factor": factor} for factor in (-0.1, 2.0, math.nan)),
    ],
)
async def test_absurd_wishes_are_refused(client: Client, prompt: list[int], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await ask(client, prompt, **{"acceptance": "adaptive"} | options)


# -- the latency that there is to hide ---------------------------------------------------------------------------------


def test_neighbours_are_nothing_to_hide() -> None:
    chain = [stage(range(place, place + 1), None, round_trip=1.9 * LOCAL_HOP_SECONDS) for place in range(LAYERS)]
    assert network_seconds(chain) == 0


def test_peers_that_state_no_link_are_as_far_from_each_other_as_from_us() -> None:
    first, last = stage(range(2), None, round_trip=0.1), stage(range(2, LAYERS), None, round_trip=0.3)
    assert network_seconds([first, last]) == pytest.approx(0.05 + 0.1 + 0.15 - 3 * LOCAL_HOP_SECONDS)


@pytest.mark.parametrize(("stated", "taken"), [(0.06, 0.06), (9.0, 0.2)])
def test_a_stated_link_counts_up_to_the_way_over_us(stated: float, taken: float) -> None:
    first = stage(range(2), record(PEERS["a"], b=stated), round_trip=0.1)
    last = stage(range(2, LAYERS), record(PEERS["b"]), round_trip=0.1)
    assert network_seconds([first, last]) == pytest.approx(0.05 + taken / 2 + 0.05 - 3 * LOCAL_HOP_SECONDS)


# -- stages that die, and stages that lie ------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def two_chains(target: TinyModel, drafter: TinyModel, new_swarm: InProcessSwarm) -> AsyncIterator[Client]:
    for _ in range(2):
        await new_swarm.start(target, range(2))
        await new_swarm.start(target, range(2, LAYERS))
    async with Client(new_swarm.addresses, str(target), str(drafter), timeout=10) as client:
        yield client


def node_at(swarm: InProcessSwarm, address: str) -> InProcessNode:
    return next(node for node in swarm.nodes if node.address == address)


def assert_follows_from_itself(result: Result, target: TinyModel) -> None:
    """Each token is the target's after those before it, or a relaxed one that gives away what it says."""
    ids = [token.id for token in result.tokens]
    with torch.no_grad():
        log_probs = target.model(torch.tensor([LONG + ids])).logits[0, len(LONG) - 1 : -1].log_softmax(-1)
    for token, row in zip(result.tokens, log_probs, strict=True):
        assert (token.origin is Origin.RELAXED) == (token.drift > 0)
        assert float(row.max() - row[token.id]) == pytest.approx(token.drift, abs=1e-3)


async def test_a_text_with_relaxed_tokens_goes_on_by_another_chain(
    two_chains: Client, target: TinyModel, new_swarm: InProcessSwarm
) -> None:
    """It is continued, not written anew: the new chain is fed what was committed, which is not the target's own text."""
    told: list[int] = []
    told_before: list[int] = []
    async with two_chains.conversation(positions=300, sampling=SamplingParams(temperature=0), **LAX) as answers:
        async for chunk in answers.ask(LONG, max_new_tokens=160):
            told += chunk.token_ids
            if not told_before and any(token.origin is Origin.RELAXED for token in chunk.tokens):
                told_before = list(told)
                await node_at(new_swarm, chunk.route[0]).kill()
        result = answers.result
    assert result.token_ids == told
    assert told[: len(told_before)] == told_before != target.greedy(LONG, len(told_before)).token_ids
    assert (result.stats.reroutes, len(told) > len(told_before)) == (1, True)
    assert len(told) == 160 or result.finish_reason is FinishReason.STOP, "a relaxed text may come to its end"
    assert_follows_from_itself(result, target)


def not_a_number(verdict: Verdict) -> Verdict:
    return replace(verdict, entropy=math.nan)


def likelier_than_certain(verdict: Verdict) -> Verdict:
    best, *others = verdict.top
    return replace(verdict, top=(Candidate(best.token, 0.5, best.score), *others))


def worst_first(verdict: Verdict) -> Verdict:
    return replace(verdict, top=(verdict.top[0], *reversed(verdict.top[1:])))


@pytest.mark.parametrize("lie", [not_a_number, likelier_than_certain, worst_first])
async def test_a_stage_that_sends_impossible_statistics_is_done_without(
    two_chains: Client,
    target: TinyModel,
    new_swarm: InProcessSwarm,
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[Verdict], Verdict],
) -> None:
    async with two_chains.conversation(positions=300, sampling=SamplingParams(temperature=0), **LAX) as answers:
        routes = []
        async for chunk in answers.ask(LONG, max_new_tokens=60):
            routes.append(chunk.route)
            if len(routes) == 3:
                lies_from_now_on(node_at(new_swarm, chunk.route[-1]), lie, monkeypatch)
        first = answers.result
        assert first.stats.reroutes == 1
        assert_follows_from_itself(first, target)
        assert two_chains._auditor is not None
        strikes = {node.address: two_chains._auditor.book.standing(node.peer).strikes for node in new_swarm.nodes}
        assert {address: count for address, count in strikes.items() if count} == {routes[0][-1]: 1}
        again = {chunk.route async for chunk in answers.ask([*LONG, *first.token_ids, 5], max_new_tokens=20)}
    assert all(set(route).isdisjoint({routes[0][-1]}) for route in {routes[-1], *again})


def lies_from_now_on(node: InProcessNode, lie: Callable[[Verdict], Verdict], monkeypatch: pytest.MonkeyPatch) -> None:
    compute = node.engine.compute

    async def lying(*given: Any) -> Any:
        computed = await compute(*given)
        return computed and replace(computed, verdicts=tuple(map(lie, computed.verdicts)))  # None: a frame of dead nodes

    monkeypatch.setattr(node.engine, "compute", lying)
