import random

import pytest

from dsd_core.decoding.lookahead.sharing import Sharing


def told(*seconds: float) -> Sharing:
    sharing = Sharing()
    for each in seconds:
        sharing.add(each)
    return sharing


def test_what_frames_take_beyond_one_that_is_alone_is_lost() -> None:
    assert told(*[0.010] * 10, *[0.025] * 40).lost == pytest.approx(0.025 - 1.25 * 0.010)


def test_what_is_alone_again_loses_nothing() -> None:
    assert told(*[0.010] * 10, *[0.025] * 40, *[0.010] * 32).lost == 0


def test_times_that_differ_are_no_loss() -> None:
    chance = random.Random(1)
    assert told(*(0.010 * chance.uniform(1, 1.4) for _ in range(300))).lost == 0


def test_a_frame_that_hangs_now_and_then_is_none_either() -> None:
    assert told(*[0.010, 0.010, 0.010, 0.100] * 40).lost == 0


def test_what_was_long_ago_is_forgotten() -> None:
    assert told(*[0.010] * 10, *[0.025] * 300).lost == 0
