"""A small model that proposes what the target will choose, by the target's own rule and noise."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsd_core.decoding.coupling import scores
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.prefix import common_prefix
from dsd_core.decoding.target import ChoiceRule
from dsd_core.model.span import Span, SpanInput

CHUNK = 512


class ModelDrafter:
    """One session's drafter: a whole model, and the keys and values of the last context it was shown.

    Not thread-safe; call `close` to give the memory back.
    """

    def __init__(self, span: Span, rule: ChoiceRule, capacity: int) -> None:
        self._span = span
        self._rule = rule
        self._kv = span.reserve(capacity)
        self._cached: list[TokenId] = []

    def propose(self, context: Sequence[TokenId], steps: int) -> tuple[DraftedToken, ...]:
        """Up to `steps` tokens after `context`; fewer where the reservation ends."""
        tokens = list(context)
        steps = min(steps, self._kv.capacity - len(tokens) + 1)
        drafted: list[DraftedToken] = []
        for _ in range(steps):
            drafted.append(self._choose(tokens))
            tokens.append(drafted[-1].token)
        return tuple(drafted)

    def close(self) -> None:
        self._kv.close()

    def _choose(self, tokens: list[TokenId]) -> DraftedToken:
        logits = self._read(tokens)
        history = np.array(tokens, dtype=np.int64)
        perturbed = scores(logits, history, self._rule.params, position=len(tokens), choice_index=self._rule.choice_index)
        best = int(perturbed.best(1)[0])
        return DraftedToken(TokenId(int(perturbed.tokens[best])), _confidence(perturbed.scores, best))

    def _read(self, tokens: list[TokenId]) -> NDArray[np.float32]:
        """Logits after `tokens`, of which the common beginning with the last call is in memory already."""
        start = min(common_prefix(self._cached, tokens), len(tokens) - 1)
        del self._cached[start:]
        while start < len(tokens):
            part = tokens[start : start + CHUNK]
            hidden = self._span.forward([self._input(start, part)])[0]
            self._cached += part
            start += len(part)
        result: NDArray[np.float32] = self._span.logits(hidden[-1:]).numpy()[0]
        return result

    def _input(self, start: int, part: list[TokenId]) -> SpanInput:
        stop = start + len(part)
        slots = np.arange(start, stop, dtype=np.int64)
        everything = np.arange(stop, dtype=np.int64)
        return SpanInput(
            kv=self._kv,
            slots=slots,
            positions=slots,
            visible=everything[None, :] <= slots[:, None],
            slot_positions=everything,
            tokens=np.array(part, dtype=np.int64),
            hidden=None,
        )


def _confidence(perturbed: NDArray[np.float64], best: int) -> float:
    """The best token's share in the softmax of the perturbed scores: at temperature 0, its probability."""
    return float(1.0 / np.exp(perturbed - perturbed[best]).sum())
