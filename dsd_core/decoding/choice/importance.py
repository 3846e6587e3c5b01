"""How much a token matters: DSD's semantic importance (arXiv 2511.11733), reconstructed.

The paper names three families of signals and says what they are for: tokens that they mark as *key* are verified strictly,
the others get a tolerance. It prints no formula. Of what follows only the three families and the two treatments are the
paper's; every formula, that the loudest signal counts, and the classes that are key whatever the statistics say are ours.

    entropy contrast         1 - H(target) / H(draft)          the target knows what the drafter did not
    top-1 match and gap      p(choice) - p(draft)              the target prefers its choice by far
    distribution agreement   1 - sum of min(p, draft's) / sum of draft's      over the drafter's candidates
    importance               the largest of the three
                             at least 1/2 where a number stands against a word
                             1 where a number stands against another, or anything against a key token

Each lies in [0, 1]. Log-probabilities are the target's after temperature; what the drafter believes are its confidences.

A number in a word's place is most often another way to begin the same sentence; a number in another's place is another
result. Of made-up problems that the target gets right one disagreement was forced and the rest left to the target (LOG.md):
17 of 17 numbers against numbers lost the answer, at whatever tolerance, and of numbers against words 2 of 509 within a nat.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dsd_core.decoding.frames import Verdict
from dsd_core.decoding.ids import TokenId


@dataclass(frozen=True, slots=True)
class KeyTokens:
    """Tokens of a vocabulary that matter whatever the statistics say."""

    always: frozenset[TokenId] = frozenset()
    """Neither they nor what would replace them is ever forgiven."""
    numbers: frozenset[TokenId] = frozenset()
    """None may stand for another."""


CLASSES_UNKNOWN = KeyTokens()
"""For a tokenizer whose tokens cannot be told apart: statistics alone decide."""

NUMBER_AGAINST_WORD = 0.5


def importance(verdict: Verdict, draft: TokenId, beliefs: Mapping[TokenId, float], key_tokens: KeyTokens) -> float:
    """How much it matters, in [0, 1], whether `draft` or the target's choice stands after the verdict's node.

    `beliefs` holds the drafter's confidence in each of its candidates there. The verdict must have statistics.
    """
    pair = (verdict.choice, draft)
    numbers = sum(token in key_tokens.numbers for token in pair)
    if numbers == 2 or any(token in key_tokens.always for token in pair):
        return 1.0
    target_probs = {candidate.token: math.exp(candidate.log_prob) for candidate in verdict.top}
    gap = _clipped(target_probs[verdict.choice] - target_probs.get(draft, 0.0))
    signals = _contrast(verdict.entropy or 0.0, beliefs), gap, _disagreement(target_probs, beliefs)
    return max(*signals, NUMBER_AGAINST_WORD if numbers else 0.0)


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
