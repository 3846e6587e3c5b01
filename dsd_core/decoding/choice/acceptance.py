"""When a draft that is not the target's own choice may stand. Lossy, so it is opt-in.

    tolerance = most · (1 - importance) · λ            0 for key tokens; λ is 0 where there is no latency to hide
    the draft x stands against the choice y   ⇔   x = y, or  tolerance > 0  and  s(y) - s(x) <= tolerance
                                                   and the answer's drift budget has room for s(y) - s(x)

s is the perturbed score: at temperature 0 the log-probability, above it what the choice was made by. A rule
on log-probabilities would let an x stand at tolerance 0 whenever a less likely y was drawn. With `most` = 0, or every token
key, nothing is ever forgiven, at any temperature: that is the exact mode.

With a window the rule is late (FLy, arXiv 2511.22972): what would be forgiven waits, and stands only when so many of the
positions after it match. In a pipeline the drafts there are being verified already, so the evidence costs no traversal.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dsd_core.decoding.choice.importance import CLASSES_UNKNOWN, KeyTokens, importance
from dsd_core.decoding.frames import Verdict
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.tree import TreeNode
from dsd_core.errors import UsageError

TOLERANCE_NATS = 2.0
"""The most that adaptive acceptance tolerates, unless something else is asked for."""
LATE_WINDOW = 3
"""Positions that must match after what the late rule forgives."""
STRICT_BELOW = 2.0
LAX_ABOVE = 8.0
"""Draft steps that fit into the network's share of a round trip, which is what a miss costs in them. On a LAN they are fewer
than two, and λ is 0; at eight, with five drafts of six right, to forgive a third of the misses makes a token a fifth sooner."""


@dataclass(frozen=True, slots=True)
class Forgiven:
    """A draft that stands though the target chose otherwise, and what that gives away: s(y) - s(x), in nats."""

    node: TreeNode
    drift: float


class Acceptance(Protocol):
    """A rule for drafts that the target did not choose."""

    @property
    def window(self) -> int:
        """Positions after a forgiven draft that must match before it stands; 0: it stands at once."""
        ...

    def forgive(self, verdict: Verdict, drafts: Sequence[TreeNode], drifted: float) -> Forgiven | None:
        """Which of the drafts after the verdict's node stands; `drifted` nats of the answer's budget are spent."""
        ...


class Exact:
    """None ever does: a draft token commits if and only if it is the target's choice."""

    window = 0

    def forgive(self, verdict: Verdict, drafts: Sequence[TreeNode], drifted: float) -> Forgiven | None:
        return None


@dataclass(frozen=True, slots=True)
class Adaptive:
    """DSD's: the less a token matters, the more is tolerated.

    A verdict without statistics is taken as in the exact mode. Raises UsageError for tolerances that mean nothing.
    """

    most: float
    """Nats tolerated where nothing speaks against it."""
    latency_factor: float = 1.0
    """λ, in [0, 1]; fixed when the session opens."""
    drift_budget: float = math.inf
    """Nats that one answer may give away."""
    key_tokens: KeyTokens = CLASSES_UNKNOWN
    weighs_importance: bool = True
    """False: one tolerance for all tokens. That is what importance has to beat."""
    window: int = 0
    """Of the late rule."""

    def __post_init__(self) -> None:
        if not 0 <= self.most <= MOST_NATS:
            raise UsageError(f"the tolerance is {self.most}; it must be between 0 and {MOST_NATS:.0f} nats")
        if not self.drift_budget >= 0:
            raise UsageError(f"the drift budget is {self.drift_budget}; it must be at least 0 nats")
        if not 0 <= self.latency_factor <= 1:
            raise UsageError(f"the latency factor is {self.latency_factor}; it must be between 0 and 1")
        if self.window < 0:
            raise UsageError(f"the late rule's window is {self.window}; it must be at least 0")

    def forgive(self, verdict: Verdict, drafts: Sequence[TreeNode], drifted: float) -> Forgiven | None:
        scores = {candidate.token: candidate.score for candidate in verdict.top}
        beliefs = {draft.token: draft.confidence for draft in drafts}
        near = [Forgiven(draft, verdict.top[0].score - scores[draft.token]) for draft in drafts if draft.token in scores]
        best = min(near, key=lambda forgiven: forgiven.drift, default=None)
        if best is None or drifted + best.drift > self.drift_budget:
            return None
        tolerance = self._tolerance(verdict, best.node.token, beliefs)
        return best if tolerance > 0 and best.drift <= tolerance else None

    def _tolerance(self, verdict: Verdict, draft: TokenId, beliefs: dict[TokenId, float]) -> float:
        if not self.weighs_importance:
            return self.most * self.latency_factor
        return self.most * (1 - importance(verdict, draft, beliefs, self.key_tokens)) * self.latency_factor


MOST_NATS = 20.0
"""Above that anything would stand."""


RULES: Mapping[str, Mapping[str, Any]] = {
    "adaptive": {},
    "late": {"window": LATE_WINDOW},
    "fixed": {"weighs_importance": False},
}
"""What each lossy mode makes of Adaptive. `fixed` is what the others have to beat."""
MODES = ("exact", *RULES)


def latency_factor(network_seconds: float, draft_seconds: float) -> float:
    """λ(L / t_d): how far a session's tolerance is opened by the latency that it hides.

    `network_seconds` is what a round trip spends between machines, without the stages' own time.
    """
    if network_seconds <= 0:
        return 0.0
    steps = network_seconds / draft_seconds if draft_seconds > 0 else math.inf
    return min(max((steps - STRICT_BELOW) / (LAX_ABOVE - STRICT_BELOW), 0.0), 1.0)
