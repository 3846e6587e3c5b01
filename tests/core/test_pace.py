"""A slowest stage that takes 10 ms a frame and whose verdicts take 60 ms more, unless said otherwise."""

import pytest

from dsd_core.decoding.lookahead.pace import Pace, Passage


def sent(pace: Pace, node: int, at: float) -> None:
    pace.send(Passage(frozenset({node}), at, service=0.010, rest=0.060))


def test_a_frame_occupies_the_stage_from_its_sending() -> None:
    pace = Pace()
    sent(pace, 1, 1.0)
    assert pace.free_at == pytest.approx(1.010)
    sent(pace, 2, 1.002)
    assert pace.free_at == pytest.approx(1.020)
    sent(pace, 3, 1.5)
    assert pace.free_at == pytest.approx(1.510)


@pytest.mark.parametrize("late", [-0.004, 0.0, 0.030])
def test_what_is_behind_a_frame_moves_with_its_answer(late: float) -> None:
    pace = Pace()
    for node in (1, 2, 3):
        sent(pace, node, 1.0)
    passage = pace.answer([1], 1.070 + late)
    assert passage is not None
    assert passage.nodes == {1}
    assert pace.free_at == pytest.approx(1.030 + late)


def test_a_frame_does_not_start_before_it_is_sent() -> None:
    pace = Pace()
    sent(pace, 1, 1.0)
    sent(pace, 2, 1.009)
    pace.answer([1], 1.050)
    assert pace.free_at == pytest.approx(1.019)


def test_frames_before_an_answered_one_were_dropped_by_the_stages() -> None:
    pace = Pace()
    for node in (1, 2, 3):
        sent(pace, node, 1.0)
    assert pace.answer([2, None], 1.080) is not None
    assert pace.answer([1], 1.081) is None
    assert pace.free_at == pytest.approx(1.030)


def test_an_answer_to_nothing_known_changes_nothing() -> None:
    pace = Pace()
    sent(pace, 1, 1.0)
    assert pace.answer([7, None], 1.01) is None
    assert pace.answer([], 1.01) is None
    assert pace.free_at == pytest.approx(1.010)


def test_what_has_not_begun_is_not_waited_for_when_it_is_void() -> None:
    """The stages drop it; what they are computing they finish."""
    pace = Pace()
    for node in (1, 2, 3):
        sent(pace, node, 1.0)
    pace.abandon(1.015)
    assert pace.free_at == pytest.approx(1.020)
    assert pace.next_due(1.015) is None, "what comes of it is of no use"


def test_verdicts_are_expected_in_turn_and_not_for_ever() -> None:
    pace = Pace()
    sent(pace, 1, 1.0)
    sent(pace, 2, 1.0)
    assert pace.next_due(1.0) == pytest.approx(1.070, abs=1e-3)
    assert pace.next_due(1.075) == pytest.approx(1.080, abs=1e-3)
    assert pace.next_due(1.1) is None
