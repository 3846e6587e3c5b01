"""What a drafter believes comes true as often as it says, at every temperature, once it has learned how sharp it is."""

import numpy as np
import pytest

from dsd_core.decoding.choice.coupling import Scores, scores
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.drafting.belief import FARTHEST, Sharpness

VOCABULARY = 40
POSITIONS = 4000


def a_position(seed: int, temperature: float, error: float) -> tuple[Scores, int]:
    """A drafter's perturbed scores, and what a target chooses whose logits differ by Gumbel errors of that scale."""
    random = np.random.default_rng(seed)
    draft = (2.0 * random.standard_normal(VOCABULARY)).astype(np.float32)
    target = draft + (error * random.gumbel(size=VOCABULARY)).astype(np.float32)
    params = SamplingParams(temperature=temperature, seed=seed)
    nothing = np.empty(0, dtype=np.int64)
    chosen = scores(target, nothing, params, position=5)
    return scores(draft, nothing, params, position=5), int(chosen.tokens[chosen.best(1)[0]])


def reliability(temperature: float, error: float, sharpness: Sharpness) -> dict[int, tuple[float, float]]:
    """By tenth of confidence: what was believed on average, and how often it was right. Four candidates a position."""
    believed: dict[int, list[tuple[float, bool]]] = {}
    for seed in range(POSITIONS):
        perturbed, choice = a_position(seed, temperature, error)
        belief = sharpness.believe(perturbed, temperature)
        sharpness.learn(belief, choice)  # type: ignore[arg-type]
        if seed >= POSITIONS // 4:
            for candidate in belief.candidates(4):
                pair = candidate.confidence, candidate.token == choice
                believed.setdefault(min(int(candidate.confidence * 10), 9), []).append(pair)
    return {tenth: tuple(np.mean(pairs, axis=0)) for tenth, pairs in believed.items() if len(pairs) >= 150}


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("error", [0.5, 1.0, 2.0])
def test_confidence_is_calibrated(temperature: float, error: float) -> None:
    sharpness = Sharpness()
    table = reliability(temperature, error, sharpness)
    assert len(table) >= 3
    for believed, right in table.values():
        assert believed == pytest.approx(right, abs=0.1)
    assert sharpness.value == pytest.approx(1 / error, rel=0.25)


def test_at_temperature_zero_it_starts_with_the_softmax() -> None:
    logits = np.array([0.0, 2.0, 1.0, -np.inf], dtype=np.float32)
    perturbed = scores(logits, np.empty(0, dtype=np.int64), SamplingParams(), position=0)
    belief = Sharpness().believe(perturbed, 0.0)
    shares = np.exp([2.0, 1.0, 0.0, FARTHEST]) / np.exp([2.0, 1.0, 0.0]).sum()
    assert belief.tokens == [1, 2, 0, 3]
    assert belief.confidences == pytest.approx(shares.tolist(), rel=1e-3)


@pytest.mark.parametrize("right", [True, False])
def test_it_never_runs_away(right: bool) -> None:
    sharpness = Sharpness()
    for seed in range(500):
        perturbed, _ = a_position(seed, 0.0, 1.0)
        belief = sharpness.believe(perturbed, 0.0)
        sharpness.learn(belief, belief.tokens[0] if right else belief.tokens[-1])
        assert all(0 < confidence <= 1 for confidence in belief.confidences)
    assert (sharpness.value > 5) == right
    assert (sharpness.value < 0.5) == (not right)


def test_lessons_are_derivatives_of_the_likelihood() -> None:
    """Of the logarithm of each candidate's share by the logarithm of the sharpness."""
    perturbed, _ = a_position(3, 0.7, 1.0)
    step = 1e-3
    here, above = Sharpness(), Sharpness(step)
    belief, sharper = here.believe(perturbed, 0.7), above.believe(perturbed, 0.7)
    slopes = (np.log(sharper.confidences) - np.log(belief.confidences)) / step
    assert belief.lessons == pytest.approx(slopes.tolist(), abs=0.02)
    others = [1 - sum(each.confidences) for each in (belief, sharper)]
    assert belief.other_lesson == pytest.approx((np.log(others[1]) - np.log(others[0])) / step, abs=0.05)
