"""Lookup beside a model: each is believed as its record deserves."""

from typing import Any

import pytest

from dsd_core.decoding.drafting.contexts import Candidates, Contexts
from dsd_core.decoding.drafting.guessers import NgramGuesser, Seconded, Stepwise
from dsd_core.decoding.drafting.hit_rates import MEMORY, HitRate, HitRates
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId


class Fixed:
    """A model that always thinks the same."""

    def __init__(self, *candidates: tuple[int, float]) -> None:
        self.candidates = tuple(DraftedToken(TokenId(token), confidence) for token, confidence in candidates)
        self.closed = False

    def guess(self, contexts: Contexts, count: int) -> tuple[Candidates, ...]:
        return tuple(self.candidates[:count] for _ in contexts.tails)

    def close(self) -> None:
        self.closed = True


def text(*tokens: int) -> tuple[TokenId, ...]:
    return tuple(map(TokenId, tokens))


def tokens(candidates: Candidates) -> list[int]:
    return [candidate.token for candidate in candidates]


COPY = text(1, 2, 3, 4, 5, 6)


def copied(length: int) -> tuple[TokenId, ...]:
    """A text that says the same again and again."""
    return (COPY * (length // len(COPY) + 1))[:length]


def test_lookup_comes_first_where_text_is_copied() -> None:
    both = Seconded(Fixed((50, 0.6), (51, 0.3)))
    for length in range(12, 60):
        ((*candidates,),) = both.guess(Contexts(copied(length), ((),)), 2)
    assert tokens(tuple(candidates)) == [copied(60)[59], 50]
    assert candidates[0].confidence > 0.8


def test_lookup_is_not_seen_where_it_is_never_right() -> None:
    both = Seconded(Fixed((50, 0.6), (51, 0.04)))
    trunk = copied(12)
    for step in range(40):
        (candidates,) = both.guess(Contexts(trunk, ((),)), 2)
        trunk = (*trunk, TokenId(100 + step), *copied(12)[:3])
    assert tokens(candidates) == [50, 51]
    (both_seen,) = both.guess(Contexts(trunk, ((),)), 3)
    assert tokens(both_seen)[:2] == [50, 51]


def test_lookup_never_doubles_what_the_model_says() -> None:
    both = Seconded(Fixed((5, 0.2), (1, 0.1)))
    (candidates,) = both.guess(Contexts(copied(16), ((),)), 4)
    assert tokens(candidates) == [5, 1]


def test_a_model_without_room_is_not_replaced() -> None:
    """Its context is no place to go on from."""
    assert Seconded(Fixed()).guess(Contexts(copied(16), ((),)), 4) == ((),)


def test_closing_reaches_the_model() -> None:
    model = Fixed()
    Stepwise(Seconded(model)).close()
    assert model.closed


def test_lookup_alone_is_believed_by_the_length_of_the_match() -> None:
    lookup = NgramGuesser()
    for length in range(12, 40):
        (candidates,) = lookup.guess(Contexts(copied(length), ((),)), 1)
    assert candidates[0].confidence > 0.7
    (short,) = lookup.guess(Contexts((*copied(40), TokenId(99)), (text(3),)), 1)
    assert tokens(short) == [4]
    assert short[0].confidence < 0.4, "matches of one token have no record"


def test_steps_follow_each_other_and_others_stay_single() -> None:
    proposals = Stepwise(Fixed((7, 0.5), (8, 0.25))).propose(Contexts(COPY, (text(), text(9))), steps=3, candidates=2)
    one, other = (DraftedToken(TokenId(7), 0.5),), (DraftedToken(TokenId(8), 0.25),)
    assert proposals == (((one * 3), other),) * 2


@pytest.mark.parametrize(("least", "length"), [(0.0, 6), (0.1, 4), (0.125, 4), (0.2, 3), (0.5, 2), (0.6, 1), (1.0, 1)])
def test_a_run_ends_where_it_is_likelier_wrong_than_it_may_be(least: float, length: int) -> None:
    ((run,),) = Stepwise(Fixed((7, 0.5))).propose(Contexts(COPY, (text(),)), steps=6, candidates=1, least=least)
    assert len(run) == length


def test_runs_end_where_nothing_is_known() -> None:
    asked = []

    class Silent(Fixed):
        def guess(self, contexts: Contexts, count: int) -> Any:
            asked.append(contexts)
            return ((),) * len(contexts.tails)

    assert Stepwise(Silent()).propose(Contexts(COPY, (text(), text(9))), steps=6, candidates=2) == ((), ())
    assert len(asked) == 1


def test_a_hit_rate_starts_at_its_prior_and_forgets() -> None:
    rate = HitRate(0.3)
    assert rate.value == 0.3
    for _ in range(4 * MEMORY):
        rate.judge(False)
    assert rate.value < 0.02
    for _ in range(2 * MEMORY):
        rate.judge(True)
    assert rate.value > 0.8


def test_guesses_are_judged_when_their_place_is_decided() -> None:
    rates = HitRates(prior=0.5)
    rates.follow(text(1, 2))
    rates.guessed("right", text(3), TokenId(4))
    rates.guessed("wrong", text(3), TokenId(5))
    rates.guessed("elsewhere", text(7), TokenId(4))
    rates.follow(text(1, 2, 3))
    assert [rates.of(kind) for kind in ("right", "wrong", "elsewhere")] == [0.5, 0.5, 0.5]
    rates.follow(text(1, 2, 3, 4))
    assert rates.of("right") > 0.5 > rates.of("wrong")
    assert rates.of("elsewhere") == 0.5
    before = rates.of("right")
    rates.follow(text(1, 2, 3, 4, 4))
    assert rates.of("right") == before, "once"


def test_a_rewound_text_judges_nothing() -> None:
    rates = HitRates(prior=0.5)
    rates.follow(text(1, 2, 3))
    rates.guessed("kind", (), TokenId(4))
    rates.follow(text(1, 2))
    rates.follow(text(1, 2, 3, 4))
    assert rates.of("kind") == 0.5
