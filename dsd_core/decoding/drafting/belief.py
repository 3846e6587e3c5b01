"""What a drafter may believe about the target's choice, given its own perturbed scores of the same position.

The target's logits are the drafter's and an error. Let the errors of different tokens be independent, Gumbel-distributed,
of scale b: then, with s = log p_T + G the drafter's scores under the noise that both share (coupling.py),

    P[the target chooses z] = softmax(T s / b)(z)            softmax(log p / b) at temperature 0

since T times the target's score is T s + b E, and the greatest of those is Gumbel-max again, E being the noise. One number
describes a drafter at every temperature; b = 1 says that its probabilities are right. It is learned from what is decided,
by a natural gradient of the likelihood. With the embedded pair it settles near 0.65 at all temperatures from 0 to 1.4.
"""

import math
from dataclasses import dataclass

import numpy as np

from dsd_core.decoding.choice.coupling import Scores
from dsd_core.decoding.drafting.contexts import MAX_CANDIDATES, Candidates
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId

LEAST = 1e-6
"""A smaller share is a rounding error."""
FARTHEST = -30.0
"""What lies further behind the best, in nats, has no share that counts; but no candidate is impossible."""
RAREST = 1e-3
"""A candidate that is chosen less often would take a place in a tree for next to nothing."""
MEMORY = 512.0
"""Decided positions that count."""
LONGEST_STEP = 0.25
BOUND = 2.0
"""Of the logarithm, either way: no drafter is that wrong about itself."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of one position, and what there is to learn from how it is decided."""

    tokens: list[TokenId]
    """Best first."""
    confidences: list[float]
    lessons: list[float]
    """How much more likely a greater sharpness would have made each of them: derivatives of log P by log sharpness."""
    other_lesson: float
    """Likewise for all other tokens together."""
    information: float
    """The mean square of what may be learned here."""

    def candidates(self, count: int) -> Candidates:
        """The best and, up to `count` in all, what else is worth a place."""
        worth = sum(share >= RAREST for share in self.confidences[1:count])
        return tuple(map(DraftedToken, self.tokens[: 1 + worth], self.confidences))


@dataclass(slots=True)
class Sharpness:
    """1 / b of one drafter. `_weight` is the Fisher information gathered, that of the prior included."""

    _log: float = 0.0
    _weight: float = 5.0

    @property
    def value(self) -> float:
        return math.exp(self._log)

    def believe(self, perturbed: Scores, temperature: float) -> Belief:
        """The candidates of a position, with calibrated confidence."""
        best = perturbed.best(MAX_CANDIDATES)
        heights = (perturbed.scores - perturbed.scores[best[0]]).astype(np.float32, copy=False)
        heights *= self.value * (temperature or 1.0)
        np.maximum(heights, FARTHEST, out=heights)
        weights = np.exp(heights)
        total = float(weights.sum())
        mean = float(weights @ heights) / total
        known, known_heights = (weights[best] / total).tolist(), heights[best].tolist()
        weights *= heights
        mean_square = float(weights @ heights) / total
        others = 1.0 - sum(known)
        known_mean = sum(share * height for share, height in zip(known, known_heights, strict=True))
        other_height = (mean - known_mean) / others if others > LEAST else FARTHEST
        return Belief(
            tokens=perturbed.tokens[best].tolist(),
            confidences=[min(share, 1.0) for share in known],
            lessons=[height - mean for height in known_heights],
            other_lesson=other_height - mean,
            information=mean_square - mean * mean,
        )

    def learn(self, belief: Belief, choice: TokenId) -> None:
        """The position was decided."""
        known = choice in belief.tokens
        lesson = belief.lessons[belief.tokens.index(choice)] if known else belief.other_lesson
        self._weight += belief.information - self._weight / MEMORY
        step = max(-LONGEST_STEP, min(LONGEST_STEP, lesson / self._weight))
        self._log = max(-BOUND, min(BOUND, self._log + step))
