import random

import pytest

from dsd_core.decoding.frames import ComputeTime
from dsd_core.decoding.lookahead.estimates import Estimates
from dsd_core.decoding.tree import TokenTree, TreeNode


def answered(estimates: Estimates, nodes: int, *, links: float = 0.050, queue: float = 0.0, stages: int = 4) -> None:
    """Stages of 5 ms a frame and 0.5 ms a node."""
    slowest = 0.005 + 0.0005 * nodes
    seconds = links + queue + stages * slowest
    estimates.on_answered(nodes, seconds, ComputeTime(stages * slowest, slowest), is_usual=True)


def candidates(*tokens: int) -> list[TreeNode]:
    tree = TokenTree()
    return [tree.add(tree.tip.id, token, rank=rank, confidence=0.5) for rank, token in enumerate(tokens)]


def test_it_finds_the_machines_through_queues() -> None:
    estimates, chance = Estimates(), random.Random(1)
    for _ in range(200):
        answered(estimates, chance.randint(1, 6), queue=chance.choice([0, 0, 0.03, 0.1]))
        branches = chance.randint(1, 4)
        estimates.on_drafted(branches, 0.002 * (1 + 0.2 * (branches - 1)))
    measured = estimates.measurements()
    assert measured.launch_seconds == pytest.approx(0.005, rel=0.02)
    assert measured.node_seconds == pytest.approx(0.0005, rel=0.02)
    assert measured.pipeline_node_seconds == pytest.approx(0.002, rel=0.02)
    assert measured.round_trip_seconds == pytest.approx(0.072, rel=0.02)
    assert measured.draft_seconds == pytest.approx(0.002, rel=0.02)
    assert estimates.branch_share == pytest.approx(0.2, rel=0.05)
    assert estimates.round_trip(5) == pytest.approx(0.080, rel=0.02)


def test_frames_of_one_size_say_nothing_of_a_nodes_price() -> None:
    """A tenth of a frame is assumed, however many come; and that holds after they had been of several sizes."""
    estimates = Estimates()
    for _ in range(5000):
        answered(estimates, 1)
    assert estimates.measurements().node_seconds == pytest.approx(0.1 * 0.0055, rel=0.01)
    for nodes in (1, 8) * 50 + (1,) * 5000:
        answered(estimates, nodes)
    assert estimates.measurements().node_seconds == pytest.approx(0.0005, rel=0.02)


def test_a_prompt_gives_a_first_guess_and_no_more() -> None:
    estimates = Estimates()
    assert not estimates.known
    estimates.on_answered(40, 0.5, ComputeTime(0.4, 0.1), is_usual=False)
    assert estimates.known
    assert 0 < estimates.measurements().round_trip_seconds < 0.5
    answered(estimates, 1)
    assert estimates.measurements().launch_seconds == pytest.approx(0.005, rel=0.05)
    before = estimates.measurements()
    estimates.on_answered(40, 0.5, ComputeTime(0.4, 0.1), is_usual=False)
    assert estimates.measurements() == before


def test_a_prompt_bounds_what_a_node_costs() -> None:
    """Small frames that are larger in busy moments make a node look dear; a prompt's nodes had to share its time."""
    estimates = Estimates()
    estimates.on_answered(50, 0.1, ComputeTime(0.040, 0.010), is_usual=False)
    for size, slowest in ((3, 0.005), (6, 0.011)) * 20:
        estimates.on_answered(size, 0.1, ComputeTime(4 * slowest, slowest), is_usual=True)
    measured = estimates.measurements()
    assert measured.node_seconds == pytest.approx(0.010 / 50, rel=0.2)
    assert measured.pipeline_node_seconds == pytest.approx(0.040 / 50, rel=0.2)
    for _ in range(1000):
        estimates.on_answered(3, 0.1, ComputeTime(0.020, 0.005), is_usual=True)
    assert estimates.measurements().node_seconds > 0.0005, "what is long ago fades"


def test_acceptance_starts_at_seven_tenths_and_follows() -> None:
    estimates = Estimates()
    assert estimates.acceptance == pytest.approx(0.7)
    for place in range(3000):
        estimates.on_judged(candidates(1, 2), 1 if place % 4 == 0 else 2)
    assert estimates.acceptance == pytest.approx(0.25, abs=0.02)
    assert estimates.reliability.belief(1, 0.5) == pytest.approx(0.75, abs=0.05)
    for _ in range(3000):
        estimates.on_judged(candidates(1), 1)
    assert estimates.acceptance < 1


def test_a_position_without_drafts_judges_nobody() -> None:
    estimates = Estimates()
    estimates.on_judged([], 1)
    assert estimates.acceptance == pytest.approx(0.7)


@pytest.mark.parametrize("nodes", [1, 30])
def test_noise_does_not_make_nodes_free(nodes: int) -> None:
    """A larger frame that took less time is chance, and a plan that believed it would flood the stages."""
    estimates = Estimates()
    for size, seconds in ((nodes, 0.010), (nodes + 5, 0.009)) * 20:
        estimates.on_answered(size, 0.1, ComputeTime(seconds, seconds), is_usual=True)
    assert estimates.measurements().node_seconds > 0


def test_what_a_draft_takes_alone_is_learnt_where_it_is_alone() -> None:
    estimates = Estimates()
    estimates.on_answered(1, 0.05, ComputeTime(0.02, 0.005), is_usual=True)
    for _ in range(70):
        estimates.on_drafted(1, 0.003)
    assert estimates.one_at_a_time().draft_seconds == pytest.approx(0.003), "nothing else is known"
    estimates.on_drafted(1, 0.001, alone=True)
    for _ in range(70):
        estimates.on_drafted(1, 0.004)
    assert estimates.one_at_a_time().draft_seconds == pytest.approx(0.001, rel=0.3)
    assert estimates.measurements().draft_seconds == pytest.approx(0.004, rel=0.1)
