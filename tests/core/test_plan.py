"""The controller's decision, against the figures and rules of the simulation that it was fitted by."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.decoding.lookahead.plan import LONGEST_DRAFT, MOST_NODES, Measurements, best_blocking, plan

GPU = Measurements(0.7, 0.002, 0.005, 0.00025, 4 * 0.00025, 0.071)
"""Four stages, 10 ms a hop, memory bound."""
CPU = Measurements(0.7, 0.002, 0.005, 0.0025, 4 * 0.0025, 0.080)
"""The same, compute bound."""
ALONE = Measurements(0.7, 0.002, 0.020, 0.001, 0.001, 0.021)
"""One stage on this machine."""

seconds = st.floats(1e-5, 1.0)
measured = st.builds(
    lambda p, draft, launch, node, stages, links: Measurements(
        p, draft, launch, node, stages * node, links + stages * (launch + node)
    ),
    st.floats(0, 0.99), seconds, seconds, seconds, st.integers(1, 16), seconds,
)  # fmt: skip


@pytest.mark.parametrize(("cell", "nodes"), [(GPU, 6), (CPU, 2), (ALONE, 40), (replace(CPU, pipeline_node_seconds=0.02), 1)])
def test_frames_are_as_large_as_in_the_simulation(cell: Measurements, nodes: int) -> None:
    assert plan(cell).frame_nodes == nodes


def test_where_nodes_cost_nothing_much_frames_hold_many_and_thresholds_are_low() -> None:
    free = plan(replace(GPU, node_seconds=0.0, pipeline_node_seconds=0.0))
    assert free.frame_nodes == MOST_NODES
    assert free.threshold == 0.003


@given(measured)
def test_a_plan_stays_within_its_bounds(cell: Measurements) -> None:
    made = plan(cell)
    assert 0.003 <= made.threshold <= 0.4
    assert made.first_threshold == pytest.approx(0.3 * made.threshold)
    assert 1 <= made.frame_nodes <= MOST_NODES


@given(measured)
def test_dearer_nodes_must_be_likelier(cell: Measurements) -> None:
    dearer = replace(cell, node_seconds=2 * cell.node_seconds, pipeline_node_seconds=2 * cell.pipeline_node_seconds)
    assert plan(dearer).threshold >= plan(cell).threshold


def test_a_surer_drafter_makes_a_token_cheaper_and_so_a_node_dearer() -> None:
    thresholds = [plan(replace(GPU, acceptance=p)).threshold for p in (0.1, 0.5, 0.8, 0.95)]
    assert thresholds == sorted(thresholds)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("cell", [GPU, CPU, ALONE])
def test_best_blocking_is_the_least_of_the_laws_sums(cell: Measurements, p: float) -> None:
    cell = replace(cell, acceptance=p)

    def a_token(k: int) -> float:
        expected = sum(p**accepted for accepted in range(k + 1))
        return (k * cell.draft_seconds + cell.round_trip_seconds + k * cell.pipeline_node_seconds) / expected

    best = best_blocking(cell)
    assert best.seconds_a_token == pytest.approx(min(map(a_token, range(LONGEST_DRAFT + 1))))
    assert a_token(best.lookahead) == pytest.approx(best.seconds_a_token)
    assert best.seconds_a_token <= cell.round_trip_seconds


def test_a_run_may_go_on_while_another_draft_makes_tokens_at_the_speed_of_the_whole() -> None:
    """At the best length one more draft is worth what it costs, and those after it are not."""
    best = best_blocking(GPU)
    assert best.least == pytest.approx((0.002 + 4 * 0.00025) / (0.7 * best.seconds_a_token))
    assert GPU.acceptance**best.lookahead < best.least <= GPU.acceptance ** (best.lookahead - 1)


@given(measured)
def test_a_likelihood_is_asked_for_however_dear_drafts_are(cell: Measurements) -> None:
    assert 0 < best_blocking(cell).least <= 1


def test_small_drifts_change_no_plan() -> None:
    assert not replace(GPU, round_trip_seconds=0.075).has_moved(GPU)
    assert replace(GPU, round_trip_seconds=0.080).has_moved(GPU)
    assert replace(GPU, acceptance=0.6).has_moved(GPU)
