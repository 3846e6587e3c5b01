"""How much a token matters: DSD's semantic importance (arXiv 2511.11733), reconstructed.

The paper names three families of signals and says what they are for: tokens that they mark as *key* are verified strictly,
the others get a tolerance. It prints no formula. Of what follows only the three families and the two treatments are the
paper's; every formula, the mean of the three, and the classes of tokens that are key whatever the statistics say are ours.

    entropy contrast         1 - H(target) / H(draft)          the target knows what the drafter did not
    top-1 match and gap      p(choice) - p(draft)              the target prefers its choice by far
    distribution agreement   1 - sum of min(p, draft's) / sum of draft's      over the drafter's candidates
    importance               1 for key tokens, else the mean of the three

Each lies in [0, 1]. Log-probabilities are the target's after temperature; what the drafter believes are its confidences.
"""

import math
from collections.abc import Collection, Mapping

from dsd_core.decoding.frames import Verdict
from dsd_core.decoding.ids import TokenId

CLASSES_UNKNOWN: frozenset[TokenId] = frozenset()
"""For a tokenizer whose tokens cannot be told apart: statistics alone decide."""


def importance(verdict: Verdict, draft: TokenId, beliefs: Mapping[TokenId, float], key_tokens: Collection[TokenId]) -> float:
    """How much it matters, in [0, 1], whether `draft` or the target's choice stands after the verdict's node.

    `beliefs` holds the drafter's confidence in each of its candidates there. The verdict must have statistics.
    """
    if verdict.choice in key_tokens or draft in key_tokens:
        return 1.0
    target_probs = {candidate.token: math.exp(candidate.log_prob) for candidate in verdict.top}
    gap = target_probs[verdict.choice] - target_probs.get(draft, 0.0)
    return (_contrast(verdict.entropy or 0.0, beliefs) + _clipped(gap) + _disagreement(target_probs, beliefs)) / 3


def _contrast(target_entropy: float, beliefs: Mapping[TokenId, float]) -> float:
    draft_entropy = -sum(belief * math.log(belief) for belief in _shares(beliefs) if belief > 0)
    return _clipped(1 - target_entropy / draft_entropy) if draft_entropy > 0 else 1.0


def _shares(beliefs: Mapping[TokenId, float]) -> list[float]:
    """What the drafter believes in, all that it did not name taken as one."""
    return [*beliefs.values(), max(0.0, 1 - sum(beliefs.values()))]


def _disagreement(target_probs: Mapping[TokenId, float], beliefs: Mapping[TokenId, float]) -> float:
    shared = sum(min(belief, target_probs.get(token, 0.0)) for token, belief in beliefs.items())
    return _clipped(1 - shared / (sum(beliefs.values()) or 1.0))


def _clipped(value: float) -> float:
    return min(max(value, 0.0), 1.0)
