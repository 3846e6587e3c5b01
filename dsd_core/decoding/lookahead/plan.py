"""What to send and what to draft, as a function of what was measured: the controller's one decision.

The law that it follows, per token:      p max(t_d, tau) + (1 - p) L
"""

import math
from dataclasses import dataclass

WORTH = 1.2
"""Scales the threshold. Fitted by simulation; twice as much spares stages a quarter of the waste, for 1-3 % of the speed."""
FIRST = 0.3
"""The share of the threshold that a frame's first node needs: a frame costs a launch, whatever it holds."""
MOST_NODES = 64
"""Of a frame of drafts."""
LONGEST_DRAFT = 24
"""Of blocking speculation, for comparison."""
DRIFT = 0.1
"""Measurements that have moved by less leave a plan as it is."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a session's machines and text are like. Seconds."""

    acceptance: float
    """p: the share of positions at which the drafter's first candidate is right, below 1."""
    draft_seconds: float
    """t_d: a draft step for one branch."""
    launch_seconds: float
    """tau0: what a frame takes at the slowest stage before its first node."""
    node_seconds: float
    """tau1: what each of its nodes adds there."""
    pipeline_node_seconds: float
    """What each of its nodes adds to the round trip, all stages together: N tau1."""
    round_trip_seconds: float
    """L: a frame of one node, with no other in its way."""

    def has_moved(self, before: "Measurements") -> bool:
        """Whether a plan made for `before` should be made again."""
        pairs = ((getattr(self, name), getattr(before, name)) for name in self.__slots__)
        return any(abs(new - old) > DRIFT * old for new, old in pairs)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to speculate. Probabilities are those of being committed, given the tip."""

    threshold: float
    """The least probability of a node that joins others in a frame or in a draft step."""
    frame_nodes: int
    """The most nodes of a frame."""

    @property
    def first_threshold(self) -> float:
        """The least probability of a frame's first node, and of a node to draft after."""
        return FIRST * self.threshold


def plan(measured: Measurements) -> Plan:
    """The plan of least time a token.

    What a token is worth comes from p and L, never from the session's own speed: to price by that is positive feedback, in
    which slowness makes tokens dear, and dear tokens make a flood.
    """
    tau0, tau1 = measured.launch_seconds, max(measured.node_seconds, 1e-9)
    p, traversal = measured.acceptance, max(measured.round_trip_seconds, 1e-9)
    price = p * max(measured.draft_seconds, tau1) + (1 - p) * traversal
    threshold = WORTH * math.sqrt(tau1 / price * measured.pipeline_node_seconds / traversal)
    useful = min(40.0, 1.5 / (1 - p))
    alone = max(math.ceil(2 * tau0 / tau1), round(math.sqrt(2 * useful * tau0 / tau1)))
    return Plan(min(max(threshold, 0.003), 0.4), max(1, min(MOST_NODES, alone, _in_company(measured, useful))))


def _in_company(measured: Measurements, useful: float) -> int:
    """The frame size at which a launch saved outweighs the delay that each node adds at the stages beside the slowest."""
    elsewhere = measured.pipeline_node_seconds - measured.node_seconds
    if elsewhere <= max(1e-9, 0.1 * measured.node_seconds):
        return MOST_NODES
    return round(math.sqrt(useful * measured.launch_seconds / elsewhere))


@dataclass(frozen=True, slots=True)
class BestBlocking:
    """The draft length with which blocking speculation would do best, 0 being plain decoding."""

    lookahead: int
    seconds_a_token: float
    least: float
    """How likely a run must be right as a whole for one more draft after it, right with chance p, to gain what it costs."""


def best_blocking(measured: Measurements) -> BestBlocking:
    """What streaming must never be slower than: (k t_d + L(k + 1)) / E, at its best k. A round's time grows evenly with k and
    its tokens by less and less, so the first k that one more does not improve is the best of all."""
    k, seconds = 0, _blocking_seconds(measured, 0)
    while k < LONGEST_DRAFT and (of_longer := _blocking_seconds(measured, k + 1)) < seconds:
        k, seconds = k + 1, of_longer
    gained = max(measured.acceptance * seconds, 1e-9)
    return BestBlocking(k, seconds, least=min(_drafted_seconds(measured) / gained, 1.0))


def _drafted_seconds(measured: Measurements) -> float:
    """What a draft adds to a round."""
    return measured.draft_seconds + measured.pipeline_node_seconds


def _blocking_seconds(measured: Measurements, k: int) -> float:
    p = measured.acceptance
    round_seconds = k * _drafted_seconds(measured) + measured.round_trip_seconds
    return round_seconds * (1 - p) / (1 - p ** (k + 1))
