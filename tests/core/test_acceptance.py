"""What may stand that the target did not choose, and that nothing may where nothing is to be forgiven."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.decoding.choice.acceptance import Adaptive, Exact, latency_factor
from dsd_core.decoding.choice.importance import KeyTokens
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule, verdict
from dsd_core.decoding.frames import Candidate, Verdict
from dsd_core.decoding.ids import NodeId, TokenId
from dsd_core.decoding.tree import TreeNode
from dsd_core.errors import UsageError

VOCABULARY = 32


def drafts(*tokens: int, confidence: float = 0.3) -> list[TreeNode]:
    return [TreeNode(NodeId(9 + token), NodeId(1), TokenId(token), 4, confidence=confidence) for token in tokens]


def scored(*scores: float) -> Verdict:
    """Tokens 0, 1, 2 ... by perturbed score, all equally likely, so that only the scores speak."""
    top = tuple(Candidate(TokenId(token), math.log(1 / 8), score) for token, score in enumerate(scores))
    return Verdict(NodeId(1), TokenId(0), scores[0] - scores[1], top, math.log(8))


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.7, 1.0, 2.0]), st.lists(st.integers(0, 31), min_size=1, max_size=4))
def test_no_tolerance_is_the_exact_mode_at_any_temperature(seed: int, temperature: float, tokens: list[int]) -> None:
    """A rule on log-probabilities would fail here: a drawn choice is often less likely than the draft."""
    logits = np.random.default_rng(seed).normal(size=VOCABULARY).astype(np.float32)
    choice = ChoiceRule(SamplingParams(temperature=temperature, seed=seed), top_count=8)
    said = verdict(NodeId(1), logits, choice, position=5)
    wrong = drafts(*(set(tokens) - {said.choice}))
    every_token = frozenset(map(TokenId, range(VOCABULARY)))
    all_key = (KeyTokens(always=every_token), KeyTokens(numbers=every_token))
    strict = (Exact(), Adaptive(0.0), Adaptive(5.0, latency_factor=0.0), *(Adaptive(5.0, key_tokens=key) for key in all_key))
    assert [rule.forgive(said, wrong, 0.0) for rule in strict] == [None] * len(strict)


def test_the_nearest_draft_stands_and_what_it_gives_away_is_told() -> None:
    forgiven = Adaptive(2.0, weighs_importance=False).forgive(scored(5.0, 4.5, 4.0), drafts(2, 1), 0.0)
    assert forgiven is not None
    assert (forgiven.node.token, forgiven.drift) == (1, 0.5)


@pytest.mark.parametrize(("most", "stands"), [(0.49, False), (0.5, True), (3.0, True)])
def test_the_tolerance_is_a_difference_of_perturbed_scores(most: float, stands: bool) -> None:
    found = Adaptive(most, weighs_importance=False).forgive(scored(5.0, 4.5), drafts(1), 0.0)
    assert (found is not None) == stands


def test_latency_opens_the_tolerance() -> None:
    said, wrong = scored(5.0, 4.5), drafts(1)
    assert Adaptive(1.0, latency_factor=0.4, weighs_importance=False).forgive(said, wrong, 0.0) is None
    assert Adaptive(1.0, latency_factor=0.6, weighs_importance=False).forgive(said, wrong, 0.0) is not None


def test_what_is_not_among_the_best_is_rejected() -> None:
    assert Adaptive(20.0, weighs_importance=False).forgive(scored(5.0, 4.9), drafts(17), 0.0) is None


def test_a_spent_budget_is_the_exact_mode() -> None:
    rule = Adaptive(1.0, drift_budget=1.2, weighs_importance=False)
    assert rule.forgive(scored(5.0, 4.5), drafts(1), 0.7) is not None
    assert rule.forgive(scored(5.0, 4.5), drafts(1), 0.8) is None


def test_importance_closes_the_tolerance() -> None:
    said = scored(5.0, 4.5, 4.0, 3.5, 3.0)
    assert Adaptive(1.0).forgive(said, drafts(1, 2, 3, 4, confidence=0.12), 0.0) is not None
    assert Adaptive(1.0, key_tokens=KeyTokens(frozenset({TokenId(1)}))).forgive(said, drafts(1), 0.0) is None
    assert Adaptive(1.0, key_tokens=KeyTokens(frozenset({TokenId(0)}))).forgive(said, drafts(1), 0.0) is None


def test_without_statistics_nothing_is_forgiven() -> None:
    assert Adaptive(20.0).forgive(Verdict(NodeId(1), TokenId(0), 0.01), drafts(1), 0.0) is None


@pytest.mark.parametrize(
    "options", [{"most": -0.1}, {"most": math.nan}, {"most": 21.0}, {"drift_budget": -1.0}, {"latency_factor": 1.1}]
)
def test_absurd_tolerances_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Adaptive(**{"most": 1.0} | options)  # type: ignore[arg-type]


def test_a_lan_is_strict_and_a_wide_network_is_not() -> None:
    draft = 0.002
    assert latency_factor(0.002, draft) == 0
    assert latency_factor(0.004, draft) == 0
    assert 0 < latency_factor(0.008, draft) < latency_factor(0.012, draft) < 1
    assert latency_factor(0.016, draft) == 1
    assert latency_factor(0.001, 0.0) == 1
