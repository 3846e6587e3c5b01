"""The three families of signals, each alone, and what is key without them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.decoding.choice.importance import CLASSES_UNKNOWN, KeyTokens, importance
from dsd_core.decoding.frames import Candidate, Verdict
from dsd_core.decoding.ids import NodeId, TokenId

A, B, C = TokenId(1), TokenId(2), TokenId(3)


def says(probs: dict[TokenId, float], entropy: float | None = None) -> Verdict:
    top = tuple(Candidate(token, math.log(share), math.log(share)) for token, share in probs.items())
    own = -sum(share * math.log(share) for share in probs.values())
    return Verdict(NodeId(1), top[0].token, 0.1, top, own if entropy is None else entropy)


def only(token: TokenId) -> KeyTokens:
    return KeyTokens(always=frozenset({token}))


def test_a_key_token_matters_on_either_side() -> None:
    torn = says({A: 0.5, B: 0.5})
    assert importance(torn, B, {B: 0.5, A: 0.5}, only(A)) == 1
    assert importance(torn, B, {B: 0.5, A: 0.5}, only(B)) == 1
    assert importance(torn, B, {B: 0.5, A: 0.5}, only(C)) < 0.1


def test_a_number_matters_against_another_and_half_so_much_against_a_word() -> None:
    torn, beliefs = says({A: 0.5, B: 0.5}), {B: 0.5, A: 0.5}
    assert importance(torn, B, beliefs, KeyTokens(numbers=frozenset({A, B}))) == 1
    for number in (A, B):
        assert importance(torn, B, beliefs, KeyTokens(numbers=frozenset({number}))) == pytest.approx(0.5)


def test_where_both_are_torn_alike_nothing_matters() -> None:
    assert importance(says({A: 0.5, B: 0.5}), B, {B: 0.5, A: 0.5}, CLASSES_UNKNOWN) == pytest.approx(0)


def test_it_matters_more_the_surer_the_target_is() -> None:
    beliefs = {B: 0.5, A: 0.5}
    rising = [importance(says({A: share, B: 1 - share}), B, beliefs, CLASSES_UNKNOWN) for share in (0.5, 0.7, 0.9, 0.99)]
    assert rising == sorted(rising)
    assert rising[-1] > 0.75


def test_it_matters_more_the_less_the_drafter_saw_of_it() -> None:
    torn = says({A: 0.5, B: 0.5})
    rising = [importance(torn, B, {B: share, C: 1 - share}, CLASSES_UNKNOWN) for share in (0.5, 0.3, 0.1)]
    assert rising == sorted(rising)
    assert rising[0] < rising[-1]


def test_a_drafter_that_is_sure_and_wrong_is_no_reason_to_be_lax() -> None:
    assert importance(says({A: 0.9, B: 0.1}), B, {B: 1.0}, CLASSES_UNKNOWN) > 0.8


def test_one_signal_is_enough() -> None:
    """The target is torn as the drafter is, between other tokens."""
    assert importance(says({A: 0.5, B: 0.5}), B, {B: 0.1, C: 0.9}, CLASSES_UNKNOWN) == pytest.approx(0.9)


@given(st.integers(0, 2**32), st.integers(1, 8), st.booleans())
def test_it_lies_between_0_and_1(seed: int, size: int, complete: bool) -> None:
    rng = np.random.default_rng(seed)
    probs = np.sort(rng.dirichlet(np.ones(size + (not complete))))[::-1][:size]
    beliefs = dict(zip(map(TokenId, range(4)), rng.dirichlet(np.ones(5))[:4].tolist(), strict=True))
    verdict = says({TokenId(index): max(float(share), 1e-12) for index, share in enumerate(probs)})
    assert 0 <= importance(verdict, TokenId(3), beliefs, CLASSES_UNKNOWN) <= 1
