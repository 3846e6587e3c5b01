"""What a swarm carries, and where it is narrow."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.decoding.chains.flow import Flow, Held

LAYERS = 4

spans = st.tuples(st.integers(0, LAYERS - 1), st.integers(1, LAYERS)).filter(lambda ends: ends[0] < ends[1])
swarms = st.lists(st.builds(lambda ends, rate: Held(range(*ends), rate), spans, st.integers(1, 9).map(float)), max_size=7)


def flow(*held: tuple[int, int, float]) -> Flow:
    return Flow(LAYERS, [Held(range(start, stop), rate) for start, stop, rate in held])


def narrowest_cut(held: list[Held]) -> float:
    """Of all ways to part the first boundary from the last, the least that goes across (it equals the greatest flow)."""
    inner = range(1, LAYERS)
    sides = [{0, *some} for count in range(LAYERS) for some in itertools.combinations(inner, count)]
    return min(sum(one.rate for one in held if one.span.start in side and one.span.stop not in side) for side in sides)


def test_chains_side_by_side_add_up() -> None:
    assert flow((0, 4, 2.0), (0, 2, 1.0), (2, 4, 3.0)).rate == 3.0


def test_what_does_not_join_carries_nothing() -> None:
    assert flow((0, 3, 1.0), (2, 4, 1.0)).rate == 0.0


def test_flow_gives_way_to_flow() -> None:
    """The shortest way first takes 0:1 and 2:4 together; then all three pairs find their places."""
    assert flow((0, 1, 1.0), (1, 4, 1.0), (0, 2, 1.0), (2, 4, 1.0), (1, 2, 1.0)).rate == 2.0


def test_holes_are_counted_from_both_ends() -> None:
    swarm = flow((1, 3, 1.0))
    assert swarm.holes() == [0, 1, 2, 1, 2]
    assert swarm.holes(backward=True) == [2, 1, 2, 1, 0]


def test_of_a_whole_chain_the_narrow_part_is_a_hole() -> None:
    assert flow((0, 1, 1.0), (1, 4, 9.0)).holes()[LAYERS] == 1


@given(swarms)
def test_the_flow_is_the_narrowest_cut(held: list[Held]) -> None:
    assert Flow(LAYERS, held).rate == pytest.approx(narrowest_cut(held))


@given(swarms, spans, st.integers(1, 9))
def test_the_gain_is_the_difference_it_makes(held: list[Held], span: tuple[int, int], rate: int) -> None:
    new = Held(range(*span), float(rate))
    assert Flow(LAYERS, held).gain(new) == pytest.approx(narrowest_cut([*held, new]) - narrowest_cut(held))


@given(swarms)
def test_there_is_more_flow_once_the_holes_are_filled(held: list[Held]) -> None:
    """And not before: with one layer fewer than that, in any places, nothing more flows."""
    needed = Flow(LAYERS, held).holes()[LAYERS]
    layers = [Held(range(layer, layer + 1), 100.0) for layer in range(LAYERS)]
    now = Flow(LAYERS, held).rate
    assert any(Flow(LAYERS, [*held, *some]).rate > now for some in itertools.combinations(layers, needed))
    fewer = itertools.combinations(layers, needed - 1) if needed else ()
    assert not any(Flow(LAYERS, [*held, *some]).rate > now for some in fewer)
