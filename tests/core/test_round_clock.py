import pytest

from dsd_core.decoding.round_clock import RoundClock, RoundTrip


def rounds(clock: RoundClock, seconds: float, count: int) -> None:
    for number in range(count):
        clock.sent(number, 3, now=100.0 * number)
        assert clock.measure(number, 100.0 * number + seconds) == RoundTrip(3, pytest.approx(seconds))


def test_while_nothing_is_known_a_round_may_take_the_longest() -> None:
    clock = RoundClock(60.0)
    clock.wait(1.0)
    assert clock.deadline == 61.0


def test_a_quick_lane_has_two_seconds() -> None:
    clock = RoundClock(60.0)
    rounds(clock, 0.05, 3)
    clock.wait(1.0)
    assert clock.deadline == 3.0


def test_a_slow_lane_has_eight_rounds_but_not_more_than_the_longest() -> None:
    clock = RoundClock(60.0)
    rounds(clock, 1.0, 3)
    clock.wait(1.0)
    assert clock.deadline == pytest.approx(9.0)
    rounds(clock, 20.0, 50)
    clock.wait(1.0)
    assert clock.deadline == 61.0


def test_the_patience_follows_what_is_measured() -> None:
    clock = RoundClock(60.0)
    rounds(clock, 4.0, 1)
    rounds(clock, 0.5, 100)
    clock.wait(0.0)
    assert clock.deadline == pytest.approx(4.0, rel=0.01)


def test_a_prompt_may_take_as_many_of_the_longest_rounds_as_it_has_frames() -> None:
    clock = RoundClock(10.0)
    rounds(clock, 0.05, 3)
    clock.wait(1.0, frames_to_catch_up=3)
    assert clock.deadline == 31.0
    clock.heard(5.0)
    assert clock.deadline == 35.0


def test_what_keeps_a_lane_warm_bounds_a_round_and_is_none() -> None:
    clock = RoundClock(60.0)
    clock.sent(7, 16, now=0.0, is_round=False)
    assert clock.measure(7, 0.5) is None
    clock.wait(1.0)
    assert clock.deadline == pytest.approx(5.0)


def test_nothing_is_measured_twice_or_after_it_was_forgotten() -> None:
    clock = RoundClock(60.0)
    rounds(clock, 1.0, 1)
    assert clock.measure(0, 9.0) is None
    clock.sent(5, 1, now=0.0)
    clock.forget_flights()
    assert clock.measure(5, 1.0) is None
