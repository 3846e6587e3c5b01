import random

import pytest

from dsd_core.decoding.lookahead.reliability import Reliability


def judged(*records: tuple[int, float, float], trials: int = 2000, seed: int = 1) -> Reliability:
    """Candidates of these ranks and confidences, right with these chances."""
    reliability, chance = Reliability(), random.Random(seed)
    for _ in range(trials):
        for rank, confidence, truth in records:
            reliability.judge(rank, confidence, right=chance.random() < truth)
    return reliability


def test_a_drafter_is_believed_until_judged() -> None:
    assert [Reliability().belief(rank, 0.62) for rank in range(3)] == [0.62] * 3


@pytest.mark.parametrize(("confidence", "truth"), [(0.9, 0.6), (0.3, 0.5), (0.5, 0.5), (0.97, 0.99)])
def test_belief_becomes_what_comes_true(confidence: float, truth: float) -> None:
    assert judged((0, confidence, truth)).belief(0, confidence) == pytest.approx(truth, abs=0.12)


def test_a_drafter_that_never_says_how_sure_it_is_gets_its_histogram_of_ranks() -> None:
    truths = (0.7, 0.14, 0.05, 0.03)
    reliability = judged(*((rank, 0.5, truth) for rank, truth in enumerate(truths)))
    for rank, truth in enumerate(truths):
        assert reliability.belief(rank, 0.5) == pytest.approx(truth, abs=0.1)


def test_what_a_drafter_tells_apart_within_a_band_is_kept() -> None:
    reliability = judged((0, 0.85, 0.7))
    assert reliability.belief(0, 0.81) < reliability.belief(0, 0.89)


def test_an_overconfident_liar_is_not_believed() -> None:
    assert judged((0, 1.0, 0.0), trials=200).belief(0, 1.0) < 0.05


def test_of_first_candidates_so_much_comes_true() -> None:
    assert Reliability().of_first_candidates() == 1
    assert judged((0, 0.9, 0.6), (0, 0.3, 0.2), (1, 0.5, 0.0)).of_first_candidates() == pytest.approx(2 / 3, abs=0.05)
    assert judged((0, 0.5, 0.9)).of_first_candidates() == 1
    assert judged((0, 1.0, 0.0), trials=6).of_first_candidates() == pytest.approx(1 / 4, abs=0.01)


def test_nothing_is_certain() -> None:
    assert judged((0, 1.0, 1.0)).belief(0, 1.0) < 1


def test_the_old_is_forgotten() -> None:
    reliability = judged((0, 0.9, 0.0))
    for _ in range(2000):
        reliability.judge(0, 0.9, right=True)
    assert reliability.belief(0, 0.9) > 0.9
