"""Whom to believe: which blocks of an answer are checked on another chain, and what becomes of peers whose claims differ.

A stage's claim is a choice, and any chain with the same model can say how good that choice is: the audit feeds it the same
prefix and compares perturbed scores s. Nobody computes alike to the last bit, so what counts is the margin

    m = s(the checker's choice) - s(the claimed choice)      m <= d: a tie      d < m <= 10 d: mild      above: gross

The laws:
1. All of a peer's first blocks are checked, then a share of max(floor, 1 / checks passed in a row). BOINC's adaptive
   replication, but with a floor: without it patience pays.
2. A mismatch counts only when a third chain has settled it, and then against the minority.
3. Gross: banned at once. Mild: a strike. Strikes are never forgiven, and three of them ban. A rule that forgives, such as
   "three of the last twenty", never catches a liar who waits (tests/core/test_audit.py shows it).
4. Of a chain, only peers that the other two chains do without can be to blame. If that is one peer, it is; of several, nobody
   can say which, so each gets a strike, however gross the lie was.
"""

import math
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Generic, TypeVar

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.frames import Verdict
from dsd_core.decoding.ids import TokenId

Peer = TypeVar("Peer", bound=Hashable)

BLOCK_TOKENS = 4
PROBATION = 10
FLOOR = 0.05
STRIKES = 3
GROSS = 10.0
EDGE = 0.1
"""By how much the share that top-p keeps may differ between honest machines: by a likely token, where two of them are alike."""
EDGE_SHARE, EDGE_TOKENS = 0.25, 2
"""Likewise of the tokens that top-k keeps, and so many at least: in bf16 many near its edge are equally likely."""

AUDIT_TOLERANCE_NATS = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.1}
"""d, by the stages' dtype. Of 120,320 choices of honest nodes, the embedded target's, 236 were not the checker's in bf16:
99.99 % lay within 0.08 of its own, edges of top-k and top-p aside, and the furthest 0.33. In fp32 none was (`python -m
benchmarks margins`). The rest is room for other machines and larger models: a lie of less than that does little harm."""


class Severity(IntEnum):
    """How far a claim is from what another chain computes."""

    TIE = 0
    MILD = 1
    GROSS = 2


def near_cuts(params: SamplingParams) -> tuple[SamplingParams, SamplingParams] | None:
    """The same with a few tokens fewer, and a few more, left by top-k and top-p; None where they leave all.

    At their edge two honest machines leave out different tokens, and then a margin says nothing of how well they compute:
    the token that one of them chooses is not there for the other. `severity_at_edge` judges by these two.
    """
    if params.temperature == 0 or (params.top_k == 0 and params.top_p == 1):
        return None
    at_edge = max(EDGE_TOKENS, round(params.top_k * EDGE_SHARE)) if params.top_k else 0  # 0 means no cut, and stays so
    least_k, least_p = params.top_k and max(1, params.top_k - at_edge), max(params.top_p - EDGE, params.top_p / 2)
    more = replace(params, top_k=params.top_k + at_edge, top_p=min(params.top_p + EDGE, 1.0))
    return replace(params, top_k=least_k, top_p=least_p), more


def severity(claimed: TokenId, check: Verdict, tolerance: float) -> Severity:
    """Of one claimed choice, by a checker's verdict with its best tokens. `tolerance` is d, in nats."""
    margin = _margin(claimed, check.choice, check)
    return Severity.GROSS if margin is None else _by_margin(margin, tolerance)


def severity_at_edge(claimed: TokenId, fewer: Verdict, more: Verdict, tolerance: float) -> Severity:
    """Likewise where top-k or top-p leave tokens out, by a checker's verdicts with both of `near_cuts`.

    What an honest machine keeps lies between the two. So its choice is among the more, and not behind the best of the fewer.
    A token that is missing altogether is no more than mild.
    """
    margin = _margin(claimed, fewer.choice, more)
    return Severity.MILD if margin is None else _by_margin(margin, tolerance)


def _margin(claimed: TokenId, best: TokenId, check: Verdict) -> float | None:
    """How far the claimed token is behind another, by a verdict's best tokens; None if it is not among them."""
    scores = {candidate.token: candidate.score for candidate in check.top}
    return scores.get(best, -math.inf) - scores[claimed] if claimed in scores else None


def _by_margin(margin: float, tolerance: float) -> Severity:
    if margin <= tolerance:
        return Severity.TIE
    return Severity.MILD if margin <= GROSS * tolerance else Severity.GROSS


@dataclass(slots=True)
class Standing:
    """What is known of a peer."""

    passed: int = 0
    """Checks passed in a row."""
    strikes: int = 0
    banned: bool = False


class AuditBook(Generic[Peer]):
    """The standings of all peers, and the schedule and the sentences that follow from them."""

    def __init__(self, floor: float = FLOOR) -> None:
        self.floor = floor
        self._standings: dict[Peer, Standing] = {}

    def standing(self, peer: Peer) -> Standing:
        return self._standings.setdefault(peer, Standing())

    def restore(self, peer: Peer, *, strikes: int) -> None:
        """What an earlier run has found. Checks passed are not kept: who comes back is looked at anew."""
        self.standing(peer).strikes = strikes

    @property
    def banned(self) -> Set[Peer]:
        return {peer for peer, standing in self._standings.items() if standing.banned}

    def sample(self, chain: Sequence[Peer], draws: Sequence[float]) -> list[int]:
        """Which blocks of an answer to check, one uniform draw in [0, 1) for each. The least trusted peer decides."""
        least = min(self.standing(peer).passed for peer in chain)
        chosen: list[int] = []
        for block, draw in enumerate(draws):
            if draw < _rate(least + len(chosen), self.floor):
                chosen.append(block)
        return chosen

    def passed(self, chain: Sequence[Peer], blocks: int) -> None:
        for peer in chain:
            self.standing(peer).passed += blocks

    def disputed(self, *chains: Sequence[Peer]) -> None:
        """Two chains differ and no third is to be had: nobody is to blame, and everybody is on probation again."""
        for peer in {peer for chain in chains for peer in chain}:
            self.standing(peer).passed = 0

    def settled(self, wrong: Sequence[Peer], right: Sequence[Sequence[Peer]], found: Severity) -> Set[Peer]:
        """Chains in `right` agree against `wrong`. Returns the peers that this has banned."""
        believed = {peer for chain in right for peer in chain}
        culprits = [peer for peer in wrong if peer not in believed]
        for peer in culprits:
            self._sentence(self.standing(peer), found, alone=len(culprits) == 1)
        return {peer for peer in culprits if self.standing(peer).banned}

    def caught(self, peer: Peer) -> bool:
        """At what needs no judge: a claim that cannot be, whatever the model. A strike; whether it has banned the peer."""
        standing = self.standing(peer)
        self._sentence(standing, Severity.MILD, alone=True)
        return standing.banned

    def _sentence(self, standing: Standing, found: Severity, *, alone: bool) -> None:
        standing.passed = 0
        standing.strikes += 1
        standing.banned = standing.banned or standing.strikes >= STRIKES or (found is Severity.GROSS and alone)


def blocks_of(answer_tokens: int) -> int:
    return math.ceil(answer_tokens / BLOCK_TOKENS)


def positions_of(blocks: Sequence[int], answer_tokens: int) -> list[int]:
    """Offsets into the answer of the tokens in some of its blocks."""
    starts = (block * BLOCK_TOKENS for block in blocks)
    return [offset for start in starts for offset in range(start, min(start + BLOCK_TOKENS, answer_tokens))]


def _rate(passed: int, floor: float) -> float:
    return 1.0 if passed < PROBATION else max(floor, 1 / passed)
