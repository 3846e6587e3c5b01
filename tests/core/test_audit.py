"""Lies are bounded (V1 of the promises), audits are cheap (V4), and what is to blame is a peer that could have lied."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dsd_core.decoding.choice.audit import (
    BLOCK_TOKENS,
    PROBATION,
    AuditBook,
    Severity,
    blocks_of,
    near_cuts,
    positions_of,
    severity,
    severity_at_edge,
)
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule, verdict
from dsd_core.decoding.frames import Candidate, Verdict
from dsd_core.decoding.ids import NodeId, TokenId

# -- severity ----------------------------------------------------------------------------------------------------------

D = 0.01


def check(*scores: float) -> Verdict:
    top = tuple(Candidate(TokenId(token), -1.0, score) for token, score in enumerate(scores))
    return Verdict(NodeId(1), TokenId(0), 0.0, top, 1.0)


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (0.0, Severity.TIE),
        (D * 0.99, Severity.TIE),
        (D * 1.01, Severity.MILD),
        (D * 9.99, Severity.MILD),
        (D * 10.1, Severity.GROSS),
    ],
)
def test_a_margin_decides(behind: float, expected: Severity) -> None:
    assert severity(TokenId(1), check(2.0, 2.0 - behind), D) is expected


def test_the_checkers_own_choice_is_a_tie() -> None:
    assert severity(TokenId(0), check(2.0, 1.0), D) is Severity.TIE


def test_a_token_far_from_all_candidates_is_gross_unless_others_were_left_out() -> None:
    assert severity(TokenId(9), check(2.0, 1.0), D) is Severity.GROSS
    assert severity_at_edge(TokenId(9), check(2.0, 1.0), check(2.0, 1.0), D) is Severity.MILD


def test_at_an_edge_a_claim_must_hold_against_what_is_certainly_kept() -> None:
    fewer, more = check(2.0, 1.0), check(2.0, 1.0, 1.9, -7.0)
    assert severity_at_edge(TokenId(2), fewer, more, 0.2) is Severity.TIE
    assert severity_at_edge(TokenId(1), fewer, more, 0.2) is Severity.MILD
    assert severity_at_edge(TokenId(3), fewer, more, 0.2) is Severity.GROSS


def test_scores_may_be_negative() -> None:
    """They are log-probabilities at temperature 0."""
    assert severity(TokenId(1), check(-0.5, -3.0), D) is Severity.GROSS


# -- the schedule ------------------------------------------------------------------------------------------------------


def test_all_of_the_first_blocks_are_checked() -> None:
    assert AuditBook[str]().sample(["a"], [0.999] * 30) == list(range(PROBATION))


def test_then_one_in_so_many_as_were_passed_but_never_less_than_the_floor() -> None:
    book = AuditBook[str]()
    book.passed(["a"], 12)
    assert book.sample(["a"], [0.0833, 0.0834]) == [0]
    book.passed(["a"], 1000)
    assert book.sample(["a"], [0.049, 0.051]) == [0]


def test_the_least_trusted_peer_of_a_chain_decides() -> None:
    book = AuditBook[str]()
    book.passed(["a"], 1000)
    assert book.sample(["a", "new"], [0.9] * 12) == list(range(PROBATION))


def test_a_mismatch_puts_a_peer_on_probation_again() -> None:
    book = AuditBook[str]()
    book.passed(["a", "b", "c"], 1000)
    book.settled(["a"], [["b"], ["c"]], Severity.MILD)
    assert book.sample(["a"], [0.9]) == [0]
    assert book.sample(["b"], [0.9]) == []


def test_blocks_and_positions() -> None:
    assert blocks_of(9) == 3
    assert positions_of([0, 2], 9) == [0, 1, 2, 3, 8]
    assert BLOCK_TOKENS == 4


# -- blame -------------------------------------------------------------------------------------------------------------


def test_gross_bans_at_once_the_only_peer_that_can_be_to_blame() -> None:
    book = AuditBook[str]()
    assert book.settled(["first", "liar"], [["first", "b"], ["c", "d"]], Severity.GROSS) == {"liar"}
    assert book.banned == {"liar"}
    assert book.standing("first").strikes == 0


def test_of_several_each_gets_a_strike() -> None:
    book = AuditBook[str]()
    assert book.settled(["x", "y"], [["b"], ["c"]], Severity.GROSS) == set()
    assert [book.standing(peer).strikes for peer in "xybc"] == [1, 1, 0, 0]


def test_nobody_is_to_blame_where_all_were_believed_elsewhere() -> None:
    book = AuditBook[str]()
    assert book.settled(["x"], [["x"], ["c"]], Severity.GROSS) == set()
    assert book.standing("x").strikes == 0


def test_three_strikes_ban_however_long_ago_they_were() -> None:
    book = AuditBook[str]()
    for _ in range(2):
        assert book.settled(["x"], [["b"], ["c"]], Severity.MILD) == set()
        book.passed(["x"], 10**6)
    assert book.settled(["x"], [["b"], ["c"]], Severity.MILD) == {"x"}


def test_strikes_of_an_earlier_run_count() -> None:
    book = AuditBook[str]()
    book.restore("x", strikes=2)
    assert book.settled(["x"], [["b"], ["c"]], Severity.MILD) == {"x"}


def test_a_dispute_without_a_third_chain_strikes_nobody() -> None:
    book = AuditBook[str]()
    book.passed(["a", "b"], 100)
    book.disputed(["a"], ["b"])
    assert [(book.standing(peer).strikes, book.standing(peer).passed) for peer in "ab"] == [(0, 0), (0, 0)]


# -- V1: two hundred liars of each kind --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Liar:
    """When it lies, and how grossly. `lies` is told its standing, which it cannot know: the worst case."""

    lies: Callable[[AuditBook[str], random.Random], bool]
    found: Severity = Severity.GROSS
    colluding: float = 0.0
    """The share of checkers that say what it says."""


def watched(book: AuditBook[str]) -> bool:
    return book.standing("liar").passed < 2 * PROBATION


ALWAYS = Liar(lambda book, chance: True)
RANDOM = Liar(lambda book, chance: chance.random() < 0.1)
PATIENT = Liar(lambda book, chance: book.standing("liar").passed >= 60)
ADAPTIVE = Liar(lambda book, chance: not watched(book))
COLLUDING = Liar(lambda book, chance: True, colluding=0.3)
SUBTLE = Liar(lambda book, chance: True, Severity.MILD)
SUBTLE_ADAPTIVE = Liar(lambda book, chance: not watched(book), Severity.MILD)

BLOCKS = 20_000


def wrong_blocks(liar: Liar, seed: int, book: AuditBook[str]) -> int | None:
    """How many lies were believed before the ban; None if it never came."""
    chance = random.Random(seed)
    wrong = 0
    for _ in range(BLOCKS):
        lie = liar.lies(book, chance)
        checked = bool(book.sample(["liar"], [chance.random()]))
        if checked and lie and chance.random() >= liar.colluding:
            if book.settled(["liar"], [["b"], ["c"]], liar.found):
                return wrong
        elif checked:
            book.passed(["liar"], 1)
            wrong += lie
        else:
            wrong += lie
    return None


def all_wrong_blocks(liar: Liar) -> list[int | None]:
    return [wrong_blocks(liar, seed, AuditBook[str]()) for seed in range(200)]


@pytest.mark.parametrize("liar", [ALWAYS, RANDOM, PATIENT, ADAPTIVE, COLLUDING], ids=range(5))
def test_gross_liars_are_banned_soon(liar: Liar) -> None:
    wrong = all_wrong_blocks(liar)
    assert None not in wrong
    assert np.mean([count for count in wrong if count is not None]) <= 25
    assert np.percentile([count for count in wrong if count is not None], 95) <= 70


@pytest.mark.parametrize("liar", [SUBTLE, SUBTLE_ADAPTIVE], ids=range(2))
def test_mild_liars_are_banned_too(liar: Liar) -> None:
    wrong = all_wrong_blocks(liar)
    assert None not in wrong
    assert np.mean([count for count in wrong if count is not None]) <= 75


class Forgiving(AuditBook[str]):
    """The obvious rule, which is the broken one: three strikes within the last twenty checks."""

    def __init__(self) -> None:
        super().__init__()
        self.recent: list[bool] = []

    def passed(self, chain: object, blocks: int) -> None:
        self.recent = [*self.recent, False][-20:]
        super().passed(["liar"], blocks)

    def settled(self, wrong: object, right: object, found: Severity) -> set[str]:
        self.recent = [*self.recent, True][-20:]
        self.standing("liar").passed = 0
        return {"liar"} if sum(self.recent) >= 3 else set()


def test_a_window_that_forgives_never_catches_who_waits() -> None:
    """Lie while unwatched, behave in probation, and the window has always emptied again."""
    waiting = Liar(lambda book, chance: not watched(book), Severity.MILD)
    outcomes = [wrong_blocks(waiting, seed, Forgiving()) for seed in range(20)]
    assert outcomes.count(None) == 20
    assert None not in [wrong_blocks(waiting, seed, AuditBook[str]()) for seed in range(20)]


# -- V4 ----------------------------------------------------------------------------------------------------------------


def test_audits_of_an_honest_peer_check_few_blocks() -> None:
    """Of its first two thousand blocks, in answers of sixteen."""
    shares = []
    for seed in range(200):
        chance, book, checked = random.Random(seed), AuditBook[str](), 0
        for _ in range(125):
            chosen = book.sample(["honest"], [chance.random() for _ in range(16)])
            book.passed(["honest"], len(chosen))
            checked += len(chosen)
        shares.append(checked / 2000)
    assert np.mean(shares) <= 0.06


@pytest.mark.parametrize("cut", [{"top_p": 0.95}, {"top_k": 4}, {"top_k": 8, "top_p": 0.9}])
def test_at_the_edge_of_a_cut_honest_machines_differ_and_are_believed(cut: dict[str, Any]) -> None:
    """They compute alike to a fiftieth of a nat, as bf16 does; now and then one leaves out what the other chooses."""
    params = SamplingParams(temperature=0.9, seed=5, **cut)
    rules = [ChoiceRule(near, top_count=8) for near in (params, *(near_cuts(params) or ()))]
    rng, doubted = np.random.default_rng(3), 0
    for position in range(4000):
        logits = rng.gumbel(size=200).astype(np.float32) * 2
        claimed = verdict(NodeId(1), logits, rules[0], position=position).choice
        other = logits + rng.normal(size=200).astype(np.float32) * 0.02
        own, fewer, more = [verdict(NodeId(1), other, rule, position=position) for rule in rules]
        if severity(claimed, own, 0.5) > Severity.TIE:
            doubted += 1
            assert severity_at_edge(claimed, fewer, more, 0.5) is Severity.TIE
    assert doubted, "no claim was at an edge, so nothing was tried"


def test_without_a_cut_there_is_no_edge() -> None:
    assert near_cuts(SamplingParams()) is None
    assert near_cuts(SamplingParams(temperature=1.0, seed=1)) is None
    assert near_cuts(SamplingParams(top_k=40)) is None, "greedy takes the best, whatever else is left"


def test_a_cut_stays_one_that_can_be() -> None:
    for top_p, top_k in ((0.01, 1), (1.0, 1), (0.99, 0)):
        params = SamplingParams(0.5, top_p, top_k, seed=1)
        fewer, more = near_cuts(params) or (params, params)
        assert 0 < fewer.top_p <= params.top_p <= more.top_p <= 1
        assert (fewer.top_k > 0) == (params.top_k > 0) == (more.top_k > 0)
