"""What the benchmarks compute from what they measured."""

from dataclasses import replace

import pytest

from benchmarks.effort import Effort
from benchmarks.law import GAP, Prediction, law_ms, simulated_ms, texts
from benchmarks.virtual_time import Cell, plain
from benchmarks.waiting_model import Agreement

EFFORT = Effort(prompts=1, tokens=200, plain_tokens=8, repeats=1, lookahead=None, out=None)
CELL = Cell(stages=4, delay=10.0, draft=2.0, launch=5.0, node=0.25)


def test_the_law_of_a_cell_that_is_known() -> None:
    """The simulation behind the design gives 25.0 for it."""
    assert law_ms(0.7, 2.0, 5.25, plain(CELL)) == pytest.approx(25.0, abs=0.1)


def test_a_drafter_that_is_never_right_brings_nothing_and_one_that_always_is_hides_the_round_trip() -> None:
    [never] = texts(Agreement(0.0, shares=(0.0, 0.0, 0.0)), EFFORT)
    [always] = texts(Agreement(1.0), EFFORT)
    assert simulated_ms(CELL, never, 1) == pytest.approx(plain(CELL), rel=0.03)
    assert simulated_ms(CELL, always, 1) < plain(CELL) / 6


def test_a_gap_over_the_limit_either_way_is_marked() -> None:
    near = Prediction("cell", "linear", measured=110.0, law=100.0, simulated=100.0)
    assert (near.law_gap, near.is_off) == (pytest.approx(0.1), False)
    assert replace(near, law=110.0 / (1 + GAP) - 1).is_off
    assert replace(near, simulated=110.0 / (1 - GAP) + 2).is_off
    assert not replace(near, law=None).is_off
