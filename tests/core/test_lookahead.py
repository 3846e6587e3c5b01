import random

import pytest

from dsd_core.decoding.events import Origin
from dsd_core.decoding.ids import LaneId
from dsd_core.decoding.lane import Lane
from dsd_core.decoding.lookahead.policy import AdaptiveLength, Blocking, FixedLength, Plain, Propose, Verify, View
from dsd_core.decoding.round_clock import RoundClock
from dsd_core.decoding.tree import TokenTree


def seconds_a_token(k: int, p: float, draft: float, traversal: float, per_node: float) -> float:
    """The law of the design's first section for blocking speculation, term by term."""
    expected = sum(p**accepted for accepted in range(k + 1))
    return (k * draft + traversal + per_node * (k + 1)) / expected


def live(length: AdaptiveLength, p: float, draft: float, traversal: float, per_node: float, *, rounds: int, seed: int) -> None:
    """Rounds as a session would report them."""
    chance = random.Random(seed)
    for _ in range(rounds):
        k = length.next().steps
        if k:
            length.on_drafted(k, k * draft * chance.uniform(0.95, 1.05))
        length.on_round_trip(k + 1, (traversal + per_node * (k + 1)) * chance.uniform(0.98, 1.02))
        accepted = 0
        while accepted < k and chance.random() < p:
            length.on_committed(Origin.ACCEPTED)
            accepted += 1
        length.on_committed(Origin.RECOVERED if accepted < k else Origin.BONUS)


@pytest.mark.parametrize("p", [0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("draft", [0.002, 0.02])
@pytest.mark.parametrize("traversal", [0.03, 0.3])
@pytest.mark.parametrize("per_node", [0.0005, 0.01])
def test_it_finds_the_best_length(p: float, draft: float, traversal: float, per_node: float) -> None:
    """Within a step on the measured p, and within 5 % of the best speed on the true one."""
    costs = [seconds_a_token(k, p, draft, traversal, per_node) for k in range(17)]
    best = costs.index(min(costs))
    found = []
    for seed in range(9):
        length = AdaptiveLength()
        live(length, p, draft, traversal, per_node, rounds=200, seed=seed)
        found.append(length.next().steps)
    chosen = sorted(found)[4]
    assert abs(chosen - best) <= 1 or costs[chosen] <= 1.05 * costs[best], f"{chosen}, not {best}"


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("draft", [0.002, 0.02, 0.05])
@pytest.mark.parametrize("traversal", [0.03, 0.3])
def test_with_exact_measurements_it_is_the_closed_form_within_a_step(p: float, draft: float, traversal: float) -> None:
    length = AdaptiveLength()
    for nodes in (1, 5, 9) * 20:
        length.on_drafted(nodes, nodes * draft)
        length.on_round_trip(nodes, traversal + 0.001 * nodes)
    for place in range(2000):
        length.on_committed(Origin.ACCEPTED if (place * p) % 1 < p else Origin.RECOVERED)
    costs = [seconds_a_token(k, p, draft, traversal, 0.001) for k in range(17)]
    assert abs(length.next().steps - costs.index(min(costs))) <= 1


def test_a_useless_drafter_is_dropped_but_probed() -> None:
    length = AdaptiveLength()
    live(length, 0.0, 0.02, 0.05, 0.001, rounds=300, seed=0)
    asked = []
    for _ in range(330):
        asked.append(length.next().steps)
        if asked[-1]:
            length.on_drafted(asked[-1], 0.02)
        length.on_round_trip(asked[-1] + 1, 0.05)
        length.on_committed(Origin.RECOVERED if asked[-1] else Origin.BONUS)
    assert set(asked) == {0, 1}
    assert asked.count(1) == 10, "one draft in 33 rounds"


def test_a_drafter_that_has_become_useful_is_used_again() -> None:
    length = AdaptiveLength()
    live(length, 0.0, 0.02, 0.2, 0.001, rounds=200, seed=0)
    live(length, 0.95, 0.002, 0.2, 0.001, rounds=6000, seed=1)
    assert length.next().steps >= 4


def test_it_starts_with_a_few_tokens_and_never_exceeds_the_longest() -> None:
    assert AdaptiveLength().next().steps == 4
    length = AdaptiveLength(longest=6)
    live(length, 1.0, 0.0001, 1.0, 0.0, rounds=50, seed=0)
    assert length.next().steps == 6


def test_no_tokens_drafted_say_nothing_about_the_time_of_one() -> None:
    length = AdaptiveLength()
    live(length, 0.8, 0.01, 0.1, 0.001, rounds=100, seed=0)
    before = length.next().steps
    length.on_drafted(0, 1000.0)
    assert length.next().steps == before


# -- moves -------------------------------------------------------------------------------------------------------------


def a_view(*drafts: int, tip_sent: bool = False, **changes: object) -> View:
    tree = TokenTree()
    tree.commit(tree.add(tree.tip.id, 5))
    parent = tree.tip.id
    for token in drafts:
        parent = tree.add(parent, token).id
    lane = Lane(LaneId(1), RoundClock(10.0))
    if tip_sent:
        lane.frame([(tree.tip, True)], keep=tree.tip)
    usual = {"is_prompt": False, "drafting": False, "remaining": 10, "now": 0.0, "capacity": 64, "chunk": 512}
    return View(**{"tree": tree, "lanes": (lane,)} | usual | changes)


def test_plain_decoding_sends_the_tip_once() -> None:
    assert list(Plain().moves(a_view())) == [Verify(1)]
    assert list(Plain().moves(a_view(tip_sent=True))) == []


def test_blocking_drafts_then_sends_then_waits() -> None:
    policy = Blocking(FixedLength(3))
    assert list(policy.moves(a_view())) == [Propose((1,), 3)]
    assert list(policy.moves(a_view(drafting=True))) == []
    assert list(policy.moves(a_view(7, 8))) == [Verify(1, (2, 3))]
    assert list(policy.moves(a_view(7, 8, tip_sent=True))) == []


def test_blocking_sends_a_prompt_at_once() -> None:
    assert list(Blocking(FixedLength(3)).moves(a_view(is_prompt=True))) == [Verify(1), Propose((1,), 3)]
    assert list(Blocking(FixedLength(0)).moves(a_view(is_prompt=True))) == [Verify(1)]


def test_blocking_drafts_no_more_than_can_still_be_used() -> None:
    policy = Blocking(FixedLength(3))
    assert list(policy.moves(a_view(remaining=3))) == [Propose((1,), 2)]
    assert list(policy.moves(a_view(remaining=1))) == [Verify(1)]


def test_blocking_does_not_ask_twice_when_the_drafter_has_nothing() -> None:
    view = a_view()
    view.tree.tip.expanded = True
    assert list(Blocking(FixedLength(3)).moves(view)) == [Verify(1)]
