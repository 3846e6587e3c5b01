"""What the benchmarks compute from what they measured."""

from dataclasses import replace

import pytest

from benchmarks.effort import Effort
from benchmarks.law import GAP, Prediction, law_ms, simulated_ms, texts
from benchmarks.table1 import ROWS, speedup
from benchmarks.virtual_time import Cell, plain
from benchmarks.waiting_model import Agreement
from dsd_client.comparison import Comparison, Figure

EFFORT = Effort(prompts=1, tokens=200, plain_tokens=8, repeats=1, lookahead=None, out=None)
CELL = Cell(stages=4, delay=10.0, draft=2.0, launch=5.0, node=0.25)
FIGURE = Figure(
    mode="",
    ms_per_token=1.0,
    slowest_ms_per_token=1.0,
    fastest_ms_per_token=1.0,
    first_token_ms=1.0,
    acceptance=0.5,
    accepted_per_token=0.5,
    rejections_per_token=0.5,
    wasted_per_token=0.0,
    tokens=100,
    same_text=True,
)


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


def test_si_is_charged_a_forward_for_each_rejection_and_nobody_has_correction_tokens() -> None:
    """SI pays 10 ms a token and 30 for every second: 25, and half of its tokens count: 50. DSI pays 5, half count: 10."""
    figures = {
        "off": replace(FIGURE, ms_per_token=30.0),
        "blocking": replace(FIGURE, ms_per_token=10.0),
        "DSI": replace(FIGURE, ms_per_token=5.0),
    }
    row = replace(ROWS[0], target_ms=8.0, drafter_ms=2.0, rate=0.5)
    found = speedup(row, Comparison(figures))
    assert (found.plain, found.clean, found.charged) == (6.0, 2.0, 5.0)
    assert found.over_bound == 1.0


def test_the_rows_are_those_of_the_paper() -> None:
    assert len(ROWS) == 10
    assert [row.published for row in ROWS] == [1.47, 1.41, 1.29, 1.70, 1.92, 1.66, 1.41, 1.37, 1.39, 1.60]
