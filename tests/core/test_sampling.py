"""The shaping of a distribution, against that of transformers."""

import math
import re

import numpy as np
import pytest

from dsd_core.decoding.choice.sampling import SamplingParams, kept_tokens, log_probs, penalised
from dsd_core.errors import UsageError

VOCABULARY = 50


def logits(seed: int, *, ties: bool = False, scale: float = 3.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(scale=scale, size=VOCABULARY).astype(np.float32)
    return np.round(drawn) if ties else drawn


def reference():
    """transformers' own processors, imported late: torch takes a second."""
    return pytest.importorskip("transformers.generation.logits_process"), pytest.importorskip("torch")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.1, 7.0])
def test_the_repetition_penalty_is_that_of_transformers(seed: int, penalty: float) -> None:
    processors, torch = reference()
    raw = logits(seed)
    raw[:3] = (0.0, -0.0, 1e30)
    history = np.random.default_rng(seed).integers(0, VOCABULARY, size=[0, 1, 9, 200, 60][seed])
    ours = penalised(raw.copy(), history, penalty)
    if history.size:
        theirs = processors.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(history)[None], torch.tensor(raw)[None])
        np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=2e-7)
    else:
        np.testing.assert_array_equal(ours, raw)


def test_the_penalty_leaves_its_argument_alone() -> None:
    raw = logits(0)
    before = raw.copy()
    penalised(raw, np.arange(10), 2.0)
    np.testing.assert_array_equal(raw, before)


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 2.5, 100.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_the_temperature_is_that_of_transformers(temperature: float, scale: float) -> None:
    processors, torch = reference()
    raw = logits(1, scale=scale)
    theirs = processors.TemperatureLogitsWarper(temperature)(None, torch.tensor(raw).double()[None]).log_softmax(-1)[0]
    np.testing.assert_allclose(log_probs(raw, temperature), theirs.numpy(), rtol=1e-9, atol=1e-12)


def test_temperature_zero_scores_the_unscaled_distribution() -> None:
    np.testing.assert_array_equal(log_probs(logits(1), 0.0), log_probs(logits(1), 1.0))


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-100])
def test_next_to_no_temperature_is_still_a_distribution(temperature: float) -> None:
    raw = logits(0, scale=1e4)
    shaped = log_probs(raw, temperature)
    assert shaped.argmax() == raw.argmax()
    assert shaped.max() == 0.0
    assert np.isfinite(shaped).all()


def test_extreme_logits_are_still_a_distribution() -> None:
    raw = np.array([3e38, 3e38, -3e38, 0.0], dtype=np.float32)
    np.testing.assert_allclose(np.exp(log_probs(raw, 1.0)), [0.5, 0.5, 0, 0])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("top_k", [0, 1, 2, 7, VOCABULARY - 1, VOCABULARY, VOCABULARY + 1])
def test_top_k_is_that_of_transformers(top_k: int, ties: bool) -> None:
    processors, torch = reference()
    for seed in range(10):
        shaped = log_probs(logits(seed, ties=ties), 0.8)
        ours = kept_tokens(shaped, top_k, 1.0)
        theirs = torch.tensor(shaped)[None]
        if top_k:
            theirs = processors.TopKLogitsWarper(top_k)(None, theirs)
        assert ours.tolist() == torch.nonzero(theirs[0].isfinite())[:, 0].tolist()


@pytest.mark.parametrize("top_k", [0, 7])
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.97, 0.999999])
def test_top_p_is_that_of_transformers(top_p: float, top_k: int) -> None:
    processors, torch = reference()
    for seed in range(20):
        shaped = log_probs(logits(seed), 1.2)
        theirs = torch.tensor(shaped)[None]
        if top_k:
            theirs = processors.TopKLogitsWarper(top_k)(None, theirs)
        theirs = processors.TopPLogitsWarper(top_p)(None, theirs)
        assert kept_tokens(shaped, top_k, top_p).tolist() == torch.nonzero(theirs[0].isfinite())[:, 0].tolist()


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9])
def test_tied_tokens_at_the_border_of_top_p_stay_by_lowest_id(top_p: float) -> None:
    """transformers sorts without order among equals; how many stay, and how likely they are, is the same."""
    processors, torch = reference()
    for seed in range(20):
        shaped = log_probs(logits(seed, ties=True), 1.0)
        ours = kept_tokens(shaped, 0, top_p)
        theirs = processors.TopPLogitsWarper(top_p)(None, torch.tensor(shaped)[None])[0]
        kept = theirs[theirs.isfinite()].numpy()
        np.testing.assert_array_equal(np.sort(shaped[ours]), np.sort(kept))
        border = shaped[ours].min()
        tied = np.flatnonzero(shaped == border)
        assert [token for token in ours.tolist() if shaped[token] == border] == tied[: (shaped[ours] == border).sum()].tolist()


def test_equal_probabilities_that_add_up_exactly() -> None:
    shaped = np.log(np.full(4, 0.25))
    assert kept_tokens(shaped, 0, 0.5).tolist() == [0, 1]
    assert kept_tokens(shaped, 0, 0.51).tolist() == [0, 1, 2]
    assert kept_tokens(shaped, 2, 1.0).tolist() == [0, 1, 2, 3], "ties at the border of top-k all stay"


def test_one_token_is_always_left() -> None:
    assert kept_tokens(log_probs(logits(0), 1.0), 1, 1e-12).tolist() == [int(np.argmax(logits(0)))]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, math.nan, math.inf, -math.inf]),
        ("top_p", [0.0, -1.0, 1.0001, math.nan]),
        ("top_k", [-1]),
        ("repetition_penalty", [0.0, -1.0, 1e-300, 1e300, math.inf, math.nan]),
        ("seed", [-1, 2**64]),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(name: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=re.escape(f"{name.replace('_', '-')} is {value}; it must be ")):
            SamplingParams(**{name: value})


def test_the_borders_are_allowed() -> None:
    SamplingParams(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=0.01, seed=0)
    SamplingParams(temperature=5.0, top_p=1e-9, top_k=10**6, repetition_penalty=50.0, seed=2**64 - 1)
