"""Noise that anybody can recompute, and choices that follow the target's distribution."""

import numpy as np
import pytest

from dsd_core.decoding.choice.coupling import Scores, greedy, gumbel_noise, scores
from dsd_core.decoding.choice.sampling import SamplingParams, kept_tokens, log_probs

GOLDEN = [  # seed, choice index, position, tokens, noise as float32 in hexadecimal
    (0, 0, 0, [0, 1, 2], "bf36e299 bf8c822d 3f6a9410"),
    (1, 0, 0, [0, 1, 2], "40066d43 3dc4be97 3fde1099"),
    (0, 1, 0, [0, 1, 2], "3fcc350d 402a88ec 4076ee89"),
    (0, 0, 1, [0, 1, 2], "3d425b99 404f139f 3f7f60fa"),
    (12345, 0, 17, [0, 50256, 151935], "bf72b731 bf89b143 3fcdf5b1"),
    (2**64 - 1, 3, 1_000_000, [262143, 2**31 - 1, 2**40], "bf363149 3f50037c 3e1fd9f6"),
]
"""Checked against an implementation in integers and math.log. They bind every version: a seed is a promise."""

NO_HISTORY = np.empty(0, dtype=np.int64)
LOGITS = np.random.default_rng(7).normal(scale=1.5, size=20).astype(np.float32)


def choose(logits: np.ndarray, params: SamplingParams, *, position: int = 0, choice_index: int = 0) -> int:
    ranked = scores(logits, NO_HISTORY, params, position=position, choice_index=choice_index)
    return int(ranked.tokens[ranked.best(1)[0]])


def with_seed(seed: int, temperature: float = 1.0, **shape: float) -> SamplingParams:
    return SamplingParams(temperature=temperature, seed=seed, **shape)


@pytest.mark.parametrize(("seed", "choice_index", "position", "tokens", "noise"), GOLDEN)
def test_golden_noise(seed: int, choice_index: int, position: int, tokens: list[int], noise: str) -> None:
    drawn = gumbel_noise(seed, choice_index, position, np.array(tokens, dtype=np.int64))
    assert drawn.dtype == np.float32
    assert drawn.astype(">f4").tobytes().hex(" ", 4) == noise


def test_the_noise_of_a_token_does_not_depend_on_its_company() -> None:
    every = gumbel_noise(3, 0, 5, np.arange(1000))
    np.testing.assert_array_equal(gumbel_noise(3, 0, 5, np.array([999, 0, 77])), every[[999, 0, 77]])


@pytest.mark.parametrize("axis", ["tokens", "positions", "seeds", "choices"])
def test_the_noise_is_gumbels(axis: str) -> None:
    count = 200_000 if axis == "tokens" else 20_000
    zero = np.array([11])
    noise = {
        "tokens": lambda: gumbel_noise(1, 0, 0, np.arange(count)),
        "positions": lambda: np.concatenate([gumbel_noise(1, 0, position, zero) for position in range(count)]),
        "seeds": lambda: np.concatenate([gumbel_noise(seed, 0, 0, zero) for seed in range(count)]),
        "choices": lambda: np.concatenate([gumbel_noise(1, choice, 0, zero) for choice in range(count)]),
    }[axis]().astype(np.float64)
    deviation = np.pi / np.sqrt(6)
    assert abs(noise.mean() - np.euler_gamma) < 4 * deviation / np.sqrt(count)
    assert noise.var() == pytest.approx(deviation**2, rel=5 * np.sqrt(4.4 / count))
    uniform = np.sort(np.exp(-np.exp(-noise)))
    assert np.abs(uniform - (np.arange(count) + 0.5) / count).max() < 2 / np.sqrt(count), "Kolmogorov and Smirnov"
    centred = noise - noise.mean()
    assert abs((centred[1:] * centred[:-1]).mean() / noise.var()) < 4 / np.sqrt(count), "neighbours are independent"


@pytest.mark.parametrize(
    "shape", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 1.7, "top_k": 12, "top_p": 0.9}]
)
def test_choices_follow_the_shaped_distribution(shape: dict[str, float]) -> None:
    params = SamplingParams(**{"temperature": 1.0} | shape)
    shaped = log_probs(LOGITS, params.temperature)
    kept = kept_tokens(shaped, params.top_k, params.top_p)
    target_probs = np.exp(shaped[kept]) / np.exp(shaped[kept]).sum()
    draws = 6000
    drawn = [choose(LOGITS, with_seed(seed, **{"temperature": 1.0} | shape)) for seed in range(draws)]
    counts = np.bincount(drawn, minlength=LOGITS.size)
    assert set(np.flatnonzero(counts)) <= set(kept.tolist())
    expected = draws * target_probs
    chi_square = ((counts[kept] - expected) ** 2 / expected).sum()
    freedom = kept.size - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 4


@pytest.mark.parametrize("axis", ["position", "choice_index"])
def test_choices_are_independent_along_an_answer_and_between_answers(axis: str) -> None:
    draws = np.array([choose(LOGITS, with_seed(9), **{axis: place}) for place in range(6001)])
    shares = np.bincount(draws, minlength=20) / draws.size
    expected = np.exp(log_probs(LOGITS, 1.0))
    assert np.abs(shares - expected).sum() / 2 < 0.03
    joint = np.histogram2d(draws[:-1], draws[1:], bins=20, range=[[0, 20], [0, 20]])[0] / 6000
    assert np.abs(joint - np.outer(shares, shares)).sum() / 2 < 0.12
    assert (draws[:-1] == draws[1:]).mean() == pytest.approx((shares**2).sum(), abs=0.025)


@pytest.mark.parametrize("distortion", [0.1, 0.5, 1.5])
def test_drafter_and_target_agree_as_often_as_promised(distortion: float) -> None:
    """(1 - TV) / (1 + TV), and never more than 1 - TV: Daliri et al., arXiv 2408.07978."""
    other = LOGITS + distortion * np.random.default_rng(8).normal(size=20).astype(np.float32)
    variation = np.abs(np.exp(log_probs(LOGITS, 1.0)) - np.exp(log_probs(other, 1.0))).sum() / 2
    draws = 5000
    agreed = np.mean([choose(LOGITS, with_seed(seed)) == choose(other, with_seed(seed)) for seed in range(draws)])
    noise = 4 * 0.5 / np.sqrt(draws)
    assert (1 - variation) / (1 + variation) - noise <= agreed <= 1 - variation + noise


def test_ties_go_to_the_lowest_id() -> None:
    tied = np.array([1, 3, 3, 0, 3], dtype=np.float32)
    assert greedy(tied) == (1, 0.0)
    assert choose(tied, SamplingParams()) == 1
    assert scores(tied, NO_HISTORY, SamplingParams(), position=0).best(3).tolist() == [1, 2, 4]


def test_greedy_is_the_scores_at_temperature_zero() -> None:
    for seed in range(200):
        logits = np.random.default_rng(seed).normal(size=100).astype(np.float32)
        logits = np.round(logits, 1) if seed % 2 else logits
        choice, margin = greedy(logits)
        ranked = scores(logits, NO_HISTORY, SamplingParams(top_k=3, top_p=0.5), position=seed)
        first, second = ranked.best(2)
        assert ranked.tokens[first] == choice
        assert ranked.scores[first] - ranked.scores[second] == pytest.approx(margin, abs=1e-9)
        np.testing.assert_array_equal(ranked.scores, ranked.log_probs)


@pytest.mark.parametrize("logits", [[2.0], [-np.inf, 1.0], [0.0, 0.0], [-5.0, -7.0, -5.5]])
def test_greedy_at_the_borders(logits: list[float]) -> None:
    array = np.array(logits, dtype=np.float32)
    choice, margin = greedy(array)
    assert choice == array.argmax()
    assert margin == (np.inf if array.size == 1 else array.max() - np.sort(array)[-2])


def ranked_as(values: list[float]) -> Scores:
    array = np.array(values, dtype=np.float64)
    return Scores(np.arange(array.size), array, array)


@pytest.mark.parametrize("size", [30, 256, 1000])
@pytest.mark.parametrize("count", [1, 2, 5, 29, 30, 31, 256, 257, 999])
def test_the_best_are_the_first_of_all_sorted(count: int, size: int) -> None:
    for seed in range(50):
        values = np.random.default_rng(seed).normal(size=size).round(seed % 3)  # many tie, or none
        expected = np.lexsort((np.arange(size), -values))[:count]
        assert ranked_as(values.tolist()).best(count).tolist() == expected.tolist()


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(repetition_penalty=1.5), with_seed(3, top_k=5)])
def test_what_is_only_compared_is_ordered_alike(params: SamplingParams) -> None:
    for position in range(50):
        history = np.arange(position % LOGITS.size)
        whole, compared = (
            scores(LOGITS, history, params, position=position, normalised=normalised) for normalised in (True, False)
        )
        assert compared.tokens.tolist() == whole.tokens.tolist()
        assert compared.best(8).tolist() == whole.best(8).tolist()
        behind = [each.scores - each.scores.max() for each in (compared, whole)]
        np.testing.assert_allclose(*behind, atol=1e-5)


def test_nobody_changes_what_all_share() -> None:
    with pytest.raises(ValueError, match="read-only"):
        scores(LOGITS, NO_HISTORY, SamplingParams(), position=0).tokens[0] = 1


def test_the_choice_does_not_depend_on_how_many_best_are_asked_for() -> None:
    """Many tie at the top: asking for the runner-up as well must not change who is first."""
    for seed in range(500):
        values = np.random.default_rng(seed).integers(0, 3, size=60).tolist()
        for count in (1, 2, 8):
            assert ranked_as(values).best(count)[0] == np.argmax(values)


def test_the_entropy_is_of_what_is_sampled_from() -> None:
    flat = np.zeros(8, dtype=np.float32)
    assert scores(flat, NO_HISTORY, with_seed(0), position=0).entropy == pytest.approx(np.log(8))
    assert scores(LOGITS, NO_HISTORY, with_seed(0, top_k=1), position=0).entropy == 0
    assert scores(LOGITS, NO_HISTORY, SamplingParams(), position=0).entropy > 0


def test_a_penalty_changes_the_choice() -> None:
    logits = np.array([5.0, 4.0, 3.0], dtype=np.float32)
    penalty = SamplingParams(repetition_penalty=2.0)
    assert scores(logits, np.array([0, 0]), penalty, position=2).best(1)[0] == 1
    assert scores(logits, np.array([0, 1]), penalty, position=2).best(1)[0] == 2


def test_a_seed_is_needed_to_sample() -> None:
    with pytest.raises(AssertionError, match="seed"):
        scores(LOGITS, NO_HISTORY, SamplingParams(temperature=1.0), position=0)


def test_entropy_is_never_below_zero() -> None:
    """Where one token is left its log-probability may be a rounding error above 0, and a client refuses what cannot be."""
    tokens = np.array([3])
    assert Scores(tokens, np.array([4e-17]), np.array([1.0])).entropy == 0.0
