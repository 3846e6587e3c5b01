"""The target's choice at a node: a function of the logits, the tokens before, the rule and the position alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsd_core.decoding.choice.coupling import Scores, greedy, scores
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.frames import Candidate, Verdict
from dsd_core.decoding.ids import NodeId, TokenId


@dataclass(frozen=True, slots=True)
class ChoiceRule:
    """Everything that a choice depends on besides model and prefix; fixed when a session opens.

    `choice_index` tells several answers to one prompt apart. `top_count` best tokens are reported with each verdict.
    """

    params: SamplingParams
    choice_index: int = 0
    top_count: int = 0

    @property
    def needs_history(self) -> bool:
        return self.params.repetition_penalty != 1.0


_NO_HISTORY = np.empty(0, dtype=np.int64)


def verdict(
    node: NodeId,
    logits: NDArray[np.float32],
    rule: ChoiceRule,
    *,
    position: int,
    history: NDArray[np.int64] = _NO_HISTORY,
) -> Verdict:
    """What the target says after `node`: logits [vocab] there, the choice falling at `position`, one below the node.

    `history` holds the ids of all tokens up to the node's own; it may be left out unless the rule needs it.
    """
    params = rule.params
    if params.temperature == 0 and not rule.needs_history and not rule.top_count:
        choice, margin = greedy(logits)
        return Verdict(node, choice, margin)
    perturbed = scores(logits, history, params, position=position, choice_index=rule.choice_index)
    best = perturbed.best(max(2, rule.top_count))
    margin = float(perturbed.scores[best[0]] - perturbed.scores[best[1]]) if best.size > 1 else float("inf")
    choice = TokenId(int(perturbed.tokens[best[0]]))
    if not rule.top_count:
        return Verdict(node, choice, margin)
    return Verdict(node, choice, margin, _candidates(perturbed, best[: rule.top_count]), perturbed.entropy)


def _candidates(perturbed: Scores, indices: NDArray[np.int64]) -> tuple[Candidate, ...]:
    columns = (perturbed.tokens[indices], perturbed.log_probs[indices], perturbed.scores[indices])
    return tuple(Candidate(TokenId(int(t)), float(p), float(s)) for t, p, s in zip(*columns, strict=True))
