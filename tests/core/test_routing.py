"""Chains of peers that cover the model."""

import itertools
import random

import pytest

from dsd_core.decoding.routing import chain
from dsd_core.errors import NotCovered


def test_one_peer_with_everything_is_the_shortest_chain() -> None:
    assert chain({"a": range(0, 4), "b": range(4, 8), "whole": range(8)}, 8) == ("whole",)


def test_spans_join_up_in_order() -> None:
    assert chain({"c": range(5, 8), "a": range(0, 2), "b": range(2, 5)}, 8) == ("a", "b", "c")


def test_overlapping_spans_do_not_join() -> None:
    with pytest.raises(NotCovered, match="from layer 5 of 8"):
        chain({"a": range(0, 5), "b": range(4, 8)}, 8)


def test_among_equals_the_first_named_serves() -> None:
    assert chain({"b": range(8), "a": range(8)}, 8) == ("b",)


def test_a_missing_start_is_named() -> None:
    with pytest.raises(NotCovered, match="--layers 0:8"):
        chain({"b": range(4, 8)}, 8)


@pytest.mark.parametrize("seed", range(50))
def test_it_finds_a_chain_whenever_there_is_one(seed: int) -> None:
    chance = random.Random(seed)
    cuts = sorted({0, 12, *chance.sample(range(1, 12), chance.randrange(5))})
    spans = {f"needed {start}": range(start, stop) for start, stop in itertools.pairwise(cuts)}
    for number in range(10):
        start = chance.randrange(12)
        spans[f"other {number}"] = range(start, chance.randrange(start, 12) + 1)
    items = list(spans.items())
    chance.shuffle(items)
    found = [dict(items)[peer] for peer in chain(dict(items), 12)]
    assert [layer for span in found for layer in span] == list(range(12))
    assert len(found) <= len(cuts) - 1
