"""Adaptive acceptance, from the options to the figures."""

import math
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from dsd_client import Client, Origin, Result, SamplingParams
from dsd_client import lane_link as lane_link_module
from dsd_client import relaxation as relaxation_module
from dsd_core.decoding.target import ChoiceRule
from dsd_core.errors import UsageError
from dsd_core.wire.codec import rule_to_wire
from tests.client.conftest import Clients

NEW = 48
LAX = {"acceptance": "adaptive", "tolerance": 20.0, "latency_factor": 1.0, "candidates": 1}
WARM = 0.9
"""A temperature at which the two models of the tests differ often enough."""


@pytest_asyncio.fixture(loop_scope="session")
async def client(clients: Clients) -> Client:
    return await clients(2)


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
@pytest.mark.parametrize("strict", [{"tolerance": 0.0}, {"latency_factor": 0.0}, {"drift_budget": 0.0}])
async def test_with_nothing_to_forgive_the_text_is_the_exact_one(
    client: Client, prompt: list[int], temperature: float, strict: dict[str, float]
) -> None:
    exact = await ask(client, prompt, temperature)
    adaptive = await ask(client, prompt, temperature, **LAX | strict)
    assert adaptive.token_ids == exact.token_ids
    assert adaptive.stats.relaxed == adaptive.stats.drift_nats == 0
    assert exact.stats.acceptance_note == ""


async def test_a_mode_that_forgives_nothing_is_not_called_adaptive(client: Client, prompt: list[int]) -> None:
    local = await ask(client, prompt, **LAX | {"latency_factor": 0.0})
    assert (local.stats.acceptance_mode, local.stats.acceptance_note) == ("exact", "there is no latency to hide")
    plain = await ask(client, prompt, speculation="off", **LAX)
    assert plain.stats.acceptance_mode == "exact"
    assert "nothing is drafted" in plain.stats.acceptance_note


async def test_an_answer_gives_away_no_more_than_its_budget(client: Client, prompt: list[int]) -> None:
    free = await ask(client, prompt, WARM, **LAX)
    bound = await ask(client, prompt, WARM, **LAX, drift_budget=free.stats.drift_nats / 2)
    assert bound.stats.drift_nats <= free.stats.drift_nats / 2 == bound.stats.drift_budget
    assert free.stats.drift_nats > 0


async def test_statistics_are_not_shown_to_who_did_not_ask(client: Client, prompt: list[int]) -> None:
    assert all(token.top == () and token.log_prob is None for token in (await ask(client, prompt, **LAX)).tokens)
    asked = await ask(client, prompt, WARM, **LAX, logprobs=2)
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
        return ask(client, prompt, WARM, acceptance="adaptive", tolerance=20.0, candidates=1)

    monkeypatch.setattr(relaxation_module, "network_seconds", lambda _: 0.0)
    assert (await adaptive()).stats.latency_factor == 0
    monkeypatch.setattr(relaxation_module, "network_seconds", lambda _: 60.0)
    far = await adaptive()
    assert far.stats.latency_factor == 1
    assert far.stats.relaxed > 0


@pytest.mark.parametrize(
    "options",
    [{"acceptance": "lax"}, {"tolerance": -1.0}, {"tolerance": math.nan}, {"drift_budget": -0.1}, {"latency_factor": 2.0}],
)
async def test_absurd_wishes_are_refused(client: Client, prompt: list[int], options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await ask(client, prompt, **{"acceptance": "adaptive"} | options)
