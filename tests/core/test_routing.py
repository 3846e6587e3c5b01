"""Chains of peers that cover the model."""

import itertools
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.decoding.chains.routing import (
    CLEAR_GAIN_SECONDS,
    UNKNOWN_SECONDS,
    Links,
    Offer,
    chain,
    is_clearly_sooner,
    traversal_seconds,
)
from dsd_core.errors import NotCovered

LAYERS = 6


def offers(**spans: range) -> dict[str, Offer]:
    return {peer: Offer(span) for peer, span in spans.items()}


def test_with_nothing_measured_the_fewest_peers_serve() -> None:
    assert chain(offers(a=range(0, 4), b=range(4, 8), whole=range(8)), 8, Links()) == ("whole",)


def test_spans_join_up_in_order() -> None:
    assert chain(offers(c=range(5, 8), a=range(0, 2), b=range(2, 5)), 8, Links()) == ("a", "b", "c")


def test_overlapping_spans_do_not_join() -> None:
    with pytest.raises(NotCovered, match="from layer 5 of 8"):
        chain(offers(a=range(0, 5), b=range(4, 8)), 8, Links())


def test_among_equals_the_first_named_serves() -> None:
    assert chain(offers(b=range(8), a=range(8)), 8, Links()) == ("b",)


def test_a_missing_start_is_named() -> None:
    with pytest.raises(NotCovered, match="--layers 0:8"):
        chain(offers(b=range(4, 8)), 8, Links())


def test_the_near_peer_serves() -> None:
    assert chain(offers(far=range(8), near=range(8)), 8, Links({"far": 0.1, "near": 0.01})) == ("near",)


def test_two_near_peers_are_better_than_one_far_away() -> None:
    links = Links({"a": 0.01, "b": 0.01, "far": 0.2}, {("a", "b"): 0.002})
    assert chain(offers(far=range(8), a=range(4), b=range(4, 8)), 8, links) == ("a", "b")


def test_the_return_hop_counts() -> None:
    links = Links({"first": 0.01, "far": 0.2, "near": 0.01}, {("first", "far"): 0.01, ("first", "near"): 0.05})
    assert chain(offers(first=range(4), far=range(4, 8), near=range(4, 8)), 8, links) == ("first", "near")


def test_a_slow_stage_is_gone_round() -> None:
    slow, quick = Offer(range(8), seconds=0.5), Offer(range(8), seconds=0.1)
    assert chain({"slow": slow, "quick": quick}, 8, Links({"slow": 0.01, "quick": 0.3})) == ("quick",)


def test_a_full_stage_serves_only_where_there_is_no_other() -> None:
    full = {"full": Offer(range(8), is_full=True)}
    assert chain(full, 8, Links()) == ("full",)
    assert chain({**full, "slow": Offer(range(8), seconds=3.0)}, 8, Links()) == ("slow",)


def test_a_link_that_was_measured_is_better_than_one_that_was_not() -> None:
    assert chain(offers(unknown=range(8), known=range(8)), 8, Links({"known": UNKNOWN_SECONDS / 2})) == ("known",)


def test_an_unmeasured_link_is_as_long_as_the_way_over_the_client() -> None:
    assert Links({"a": 0.02, "b": 0.03}).between("a", "b") == pytest.approx(0.05)


def test_no_peer_comes_nearer_by_its_own_word() -> None:
    """Each end of a link states it; the slower statement counts."""
    links = Links({}, {("liar", "honest"): 0.0, ("honest", "liar"): 0.08})
    assert links.between("liar", "honest") == links.between("honest", "liar") == 0.08


@pytest.mark.parametrize(
    ("seconds", "than", "moves"),
    [
        (0.05, 0.1, True),
        (0.09, 0.1, False),
        (0.1, 0.1, False),
        (0.2, 0.1, False),
        (0.001, 0.001 + 0.9 * CLEAR_GAIN_SECONDS, False),
    ],
)
def test_only_a_clear_gain_moves_a_session(seconds: float, than: float, moves: bool) -> None:
    assert is_clearly_sooner(seconds, than) is moves


@given(st.floats(0, 10), st.floats(0, 10))
def test_two_chains_never_trade_places(one: float, other: float) -> None:
    assert not (is_clearly_sooner(one, other) and is_clearly_sooner(other, one))


@st.composite
def swarms(draw: st.DrawFn) -> tuple[dict[int, Offer], Links[int]]:
    """Up to six peers with spans, times and links of any sort; some links nobody measured."""
    seconds = st.integers(0, 200).map(lambda milliseconds: milliseconds / 1000)
    span = st.tuples(st.integers(0, LAYERS - 1), st.integers(1, LAYERS)).filter(lambda ends: ends[0] < ends[1])
    offer = st.builds(lambda ends, time, full: Offer(range(*ends), time, full), span, seconds, st.booleans())
    found = draw(st.lists(offer, max_size=6))
    peers = range(len(found))
    own = draw(st.dictionaries(st.sampled_from(peers), seconds)) if found else {}
    pairs = list(itertools.permutations(peers, 2))
    stated = draw(st.dictionaries(st.sampled_from(pairs), seconds)) if pairs else {}
    return dict(enumerate(found)), Links(own, stated)


def all_chains(spans: Mapping[int, Offer], reached: int = 0) -> Iterator[tuple[int, ...]]:
    if reached == LAYERS:
        yield ()
    for peer, offer in spans.items():
        if offer.span.start == reached:
            yield from ((peer, *rest) for rest in all_chains(spans, offer.span.stop))


@given(swarms())
def test_no_chain_is_sooner(swarm: tuple[dict[int, Offer], Links[int]]) -> None:
    """Compared with every chain there is; and one is found whenever there is one."""
    spans, links = swarm
    chains = list(all_chains(spans))
    if not chains:
        with pytest.raises(NotCovered):
            chain(spans, LAYERS, links)
        return
    found = chain(spans, LAYERS, links)
    assert found in chains
    soonest = min(traversal_seconds(peers, spans, links) for peers in chains)
    assert traversal_seconds(found, spans, links) == pytest.approx(soonest)
