"""Verdicts from logits."""

import numpy as np
import pytest

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule, verdict
from dsd_core.decoding.ids import NodeId

LOGITS = np.random.default_rng(7).normal(size=50).astype(np.float32)
HISTORY = np.array([3, 1, 4, 1, 5], dtype=np.int64)
RULES = [
    SamplingParams(),
    SamplingParams(repetition_penalty=1.7),
    SamplingParams(temperature=0.8, seed=5),
    SamplingParams(temperature=1.2, top_k=9, top_p=0.8, repetition_penalty=1.2, seed=5),
]


@pytest.mark.parametrize("params", RULES)
def test_statistics_do_not_change_the_choice(params: SamplingParams) -> None:
    bare = verdict(NodeId(1), LOGITS, ChoiceRule(params), position=6, history=HISTORY)
    full = verdict(NodeId(1), LOGITS, ChoiceRule(params, top_count=8), position=6, history=HISTORY)
    assert (bare.choice, bare.node) == (full.choice, full.node)
    assert bare.margin == pytest.approx(full.margin, abs=1e-6)
    assert bare.top == ()
    assert bare.entropy is None
    assert full.top[0].token == full.choice
    assert len(full.top) <= 8
    assert full.top[0].score - full.top[1].score == pytest.approx(full.margin, abs=1e-6)
    assert [best.score for best in full.top] == sorted((best.score for best in full.top), reverse=True)


def test_greedy_takes_the_most_likely() -> None:
    found = verdict(NodeId(1), LOGITS, ChoiceRule(SamplingParams()), position=6)
    best, second = np.sort(LOGITS)[::-1][:2]
    assert found.choice == int(np.argmax(LOGITS))
    assert found.margin == pytest.approx(float(best - second))


def test_choices_of_one_prompt_differ() -> None:
    params = SamplingParams(temperature=1.5, seed=5)
    choices = {verdict(NodeId(1), LOGITS, ChoiceRule(params, index), position=6).choice for index in range(40)}
    assert len(choices) > 5


def test_history_is_asked_for_only_when_it_counts() -> None:
    assert ChoiceRule(SamplingParams(repetition_penalty=1.1)).needs_history
    assert not ChoiceRule(SamplingParams(temperature=1.0, seed=1)).needs_history


def test_entropy_is_that_of_what_is_left() -> None:
    flat = np.zeros(16, dtype=np.float32)
    params = SamplingParams(temperature=1.0, seed=1)
    assert verdict(NodeId(1), flat, ChoiceRule(params, top_count=1), position=1).entropy == pytest.approx(np.log(16))
    flat[3:] = -np.inf
    assert verdict(NodeId(1), flat, ChoiceRule(params, top_count=1), position=1).entropy == pytest.approx(np.log(3))
