"""The swarm's answer is the model's, whoever drafts and however many hold it."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from dsd_client import Client, FinishReason, Origin, Result, SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule, verdict
from tests.client.conftest import Clients
from tests.conftest import POSITIONS, InProcessSwarm, TinyModel

NEW = 48
MODES: list[tuple[str, int | None]] = [
    ("off", None),
    ("blocking", 1),
    ("blocking", 4),
    ("blocking", None),
    ("streaming", None),
    ("streaming", 2),
]
SAMPLING = SamplingParams(temperature=0.9, top_p=0.95, repetition_penalty=1.1, seed=2**63 + 5)


def assert_stats_add_up(result: Result) -> None:
    stats = result.stats
    assert stats.new_tokens == stats.accepted + stats.recovered + stats.bonus == len(result.token_ids)
    assert stats.rejections == stats.recovered
    assert stats.accepted + stats.wasted <= stats.drafted
    assert stats.bytes_sent > 0
    assert stats.bytes_received > 0
    assert 0 < stats.seconds_to_first_token <= stats.seconds
    assert stats.tokens_per_second == pytest.approx(len(result.token_ids) / stats.seconds)
    assert (stats.reroutes, stats.acceptance_mode) == (0, "exact")


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
async def test_greedy_answers_equal_transformers(
    clients: Clients, target: TinyModel, prompt: list[int], stages: int, penalty: float
) -> None:
    reference = target.greedy(prompt, NEW, repetition_penalty=penalty)
    client = await clients(stages)
    for speculation, lookahead in MODES:
        sampling = SamplingParams(repetition_penalty=penalty)
        options = {"speculation": speculation, "lookahead": lookahead, "sampling": sampling}
        result = await client.generate(prompt, max_new_tokens=NEW, **options)  # type: ignore[arg-type]
        reference.assert_same(result.token_ids)
        assert result.finish_reason is FinishReason.LENGTH
        assert result.stats.prompt_tokens == len(prompt)
        assert_stats_add_up(result)
        if speculation == "off":
            assert result.stats.drafted == result.stats.accepted == result.stats.recovered == 0
            assert result.stats.frames == NEW - 1  # the prompt's is not counted
        elif lookahead == 4:
            assert result.stats.accepted > 0
            assert result.stats.recovered > 0
            assert result.stats.frames < NEW - 1


@pytest.mark.parametrize("sampling", [SAMPLING, SamplingParams(temperature=1.2, top_k=30, seed=7)], ids=["top-p", "top-k"])
async def test_same_seed_same_text(clients: Clients, target: TinyModel, prompt: list[int], sampling: SamplingParams) -> None:
    """Whatever drafter, lookahead and number of stages; and it is the text of the whole model under the same noise."""
    reference = sampled(target, prompt, sampling, NEW)
    for stages in (1, 4):
        for drafter in ("none", "ngram", None):
            for lookahead in (1, 5, None):
                client = await clients(stages, drafter)
                result = await client.generate(prompt, max_new_tokens=NEW, sampling=sampling, lookahead=lookahead)
                assert result.token_ids == reference, (stages, drafter, lookahead)
                assert result.stats.seed == sampling.seed
                assert_stats_add_up(result)


def sampled(model: TinyModel, prompt: list[int], sampling: SamplingParams, new_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(new_tokens):
        with torch.no_grad():
            logits = model.model(torch.tensor([tokens])).logits[0, -1].numpy()
        rule = ChoiceRule(sampling)
        tokens.append(verdict(0, logits, rule, position=len(tokens), history=np.array(tokens)).choice)  # type: ignore[arg-type]
    return tokens[len(prompt) :]


async def test_another_seed_another_text(clients: Clients, prompt: list[int]) -> None:
    client = await clients()
    texts = {
        (await client.generate(prompt, max_new_tokens=20, sampling=SamplingParams(temperature=1.0, seed=seed))).text
        for seed in range(4)
    }
    assert len(texts) == 4


async def test_an_unset_seed_is_drawn_and_reported(clients: Clients, prompt: list[int]) -> None:
    client = await clients()
    drawn = [await client.generate(prompt, max_new_tokens=20, sampling=SamplingParams(temperature=1.0)) for _ in range(2)]
    assert drawn[0].stats.seed != drawn[1].stats.seed
    again = SamplingParams(temperature=1.0, seed=drawn[0].stats.seed)
    assert (await client.generate(prompt, max_new_tokens=20, sampling=again)).token_ids == drawn[0].token_ids


async def test_a_drafter_that_is_the_target_is_always_right(swarms: dict[int, InProcessSwarm], target: TinyModel) -> None:
    """At temperature too: it shares the noise."""
    async with Client(swarms[2].addresses, str(target), str(target)) as client:
        for sampling in (SamplingParams(), SAMPLING):
            options = {"max_new_tokens": 41, "sampling": sampling, "lookahead": 4}
            result = await client.generate("the lazy dog", speculation="blocking", **options)
            assert result.stats.recovered == 0
            assert result.stats.acceptance == 1.0
            assert result.stats.frames <= 9  # five tokens each, the first of which came with the prompt


async def test_streamed_chunks_are_the_whole(clients: Clients, prompt: list[int]) -> None:
    client = await clients()
    chunks = [chunk async for chunk in client.stream(prompt, max_new_tokens=NEW, lookahead=4)]
    result = await client.generate(prompt, max_new_tokens=NEW, lookahead=4)
    assert [token for chunk in chunks for token in chunk.token_ids] == result.token_ids
    assert "".join(chunk.text for chunk in chunks) == result.text
    assert len(chunks) > 1
    assert {origin for chunk in chunks for origin in chunk.as_json()["origin"]} <= {origin.value for origin in Origin}
    assert len({chunk.route for chunk in chunks}) == 1


async def test_the_route_names_the_stages(clients: Clients, swarms: dict[int, InProcessSwarm], prompt: list[int]) -> None:
    client = await clients(4)
    async for chunk in client.stream(prompt, max_new_tokens=3):
        assert list(chunk.route) == swarms[4].addresses


async def test_addresses_in_any_order(swarms: dict[int, InProcessSwarm], target: TinyModel, prompt: list[int]) -> None:
    async with Client(swarms[4].addresses[::-1], str(target), "none") as client:
        target.greedy(prompt, 5).assert_same((await client.generate(prompt, max_new_tokens=5)).token_ids)


async def test_a_prompt_of_several_frames(clients: Clients, target: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from dsd_client import client as module

    monkeypatch.setattr(module, "FRAME_BYTES", 4 * 32 * 16)  # sixteen nodes a frame
    long = [int(token) for token in np.random.default_rng(1).integers(1, 300, 200)]
    client = await clients(4)
    for speculation in ("blocking", "streaming"):
        result = await client.generate(long, max_new_tokens=10, lookahead=4, speculation=speculation)
        target.greedy(long, 10).assert_same(result.token_ids)
        assert speculation == "streaming" or result.stats.frames <= 9


async def test_all_positions_can_be_used(clients: Clients, target: TinyModel) -> None:
    """Drafting must not cost an answer its last positions."""
    long = [int(token) for token in np.random.default_rng(2).integers(1, 300, POSITIONS - 12)]
    reference = target.greedy(long, 12)
    for speculation in ("off", "blocking", "streaming"):
        client = await clients(1)
        result = await client.generate(long, max_new_tokens=12, speculation=speculation)
        reference.assert_same(result.token_ids)


async def test_log_probabilities(clients: Clients, target: TinyModel, prompt: list[int]) -> None:
    client = await clients()
    result = await client.generate(prompt, max_new_tokens=12, logprobs=8, lookahead=4)
    with torch.no_grad():
        logits = target.model(torch.tensor([prompt + result.token_ids])).logits[0, len(prompt) - 1 : -1]
    expected = torch.log_softmax(logits.double(), -1)
    for row, token in zip(expected, result.tokens, strict=True):
        best = row.topk(8)
        assert [candidate.token for candidate in token.top] == best.indices.tolist()
        assert [candidate.log_prob for candidate in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token.log_prob == token.top[0].log_prob
        assert token.top[0].token == token.id
    entries = result.as_json()["logprobs"]
    assert [entry["token_id"] for entry in entries] == result.token_ids
    assert all(len(entry["top"]) == 8 for entry in entries)
    assert "logprobs" not in (await client.generate(prompt, max_new_tokens=3)).as_json()


async def test_bytes_are_those_of_the_messages(clients: Clients, prompt: list[int]) -> None:
    """Exact mode: at most 64 bytes a node sent, and a verdict received, the prompt's included."""
    client = await clients()
    for speculation in ("off", "blocking", "streaming"):
        stats = (await client.generate(prompt, max_new_tokens=NEW, speculation=speculation, lookahead=4)).stats
        nodes = stats.prompt_tokens + stats.new_tokens + stats.drafted
        assert 4 * NEW < stats.bytes_sent <= 64 * nodes
        assert 4 * NEW < stats.bytes_received <= 64 * (stats.new_tokens + stats.drafted)


async def test_stats_have_all_that_was_promised(clients: Clients) -> None:
    result = await (await clients()).generate("the fox", max_new_tokens=2)
    promised = (
        "prompt_tokens new_tokens drafted accepted recovered bonus rejections frames wasted near_ties seconds "
        "seconds_to_first_token tokens_per_second bytes_sent bytes_received reroutes seed acceptance_mode"
    )
    assert set(promised.split()) <= set(asdict(result.stats))
    assert set(result.as_json()) == {"text", "token_ids", "finish_reason", "stats"}
