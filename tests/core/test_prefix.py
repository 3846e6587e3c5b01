"""What need not be sent again."""

import random

from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.prefix import common_prefix


def tokens(text: str) -> list[TokenId]:
    return [TokenId(ord(letter)) for letter in text]


def test_up_to_the_first_difference() -> None:
    assert common_prefix(tokens("abcd"), tokens("abxd")) == 2
    assert common_prefix(tokens("abc"), tokens("xbc")) == 0


def test_up_to_the_end_of_the_shorter() -> None:
    assert common_prefix(tokens("abc"), tokens("abcde")) == common_prefix(tokens("abcde"), tokens("abc")) == 3
    assert common_prefix([], tokens("abc")) == 0


def test_lists_and_tuples_compare() -> None:
    chance = random.Random(3)
    for _ in range(200):
        shared, tail = chance.choices(range(5), k=chance.randrange(6)), chance.choices(range(5), k=3)
        first, second = [*shared, 7, *tail], (*shared, 8, *tail)
        assert common_prefix([TokenId(t) for t in first], tuple(TokenId(t) for t in second)) == len(shared)
