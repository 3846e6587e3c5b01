"""A small model that proposes what the target will choose, by the target's own rule and noise."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsd_core.decoding.choice.coupling import scores
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.belief import Belief, Sharpness
from dsd_core.decoding.drafting.contexts import Candidates, Contexts
from dsd_core.decoding.drafting.draft_tree import DraftTree
from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.stage_tree import Placement
from dsd_core.model.kv import KvStore
from dsd_core.model.span import Span, SpanInput

_NO_HISTORY = np.empty(0, dtype=np.int64)


class ModelDrafter:
    """One session's drafter: a whole model, and the keys and values of the tree of its drafts.

    `sharpness` may be shared by the sessions of a model, in one thread. Not thread-safe; `close` gives the memory back.
    """

    def __init__(
        self, span: Span, rule: ChoiceRule, capacity: int, *, positions: int | None = None, sharpness: Sharpness | None = None
    ) -> None:
        """For `capacity` tokens in all branches, each up to `positions` deep. Raises OutOfCapacity without memory for them."""
        self._span = span
        self._rule = rule
        self._kv = span.reserve(capacity)
        self._tree = DraftTree(capacity, positions or capacity)
        self._sharpness = sharpness or Sharpness()

    def guess(self, contexts: Contexts, count: int) -> tuple[Candidates, ...]:
        """For each context the `count` best candidates, all from one forward; none where the reservation ends."""
        for belief, choice in self._tree.enter(contexts):
            self._sharpness.learn(belief, choice)
        for frame, placement in self._tree.frames():
            self._read(frame, placement)
        return tuple(belief.candidates(count) if belief else () for belief in self._tree.beliefs())

    def close(self) -> None:
        self._kv.close()

    def _read(self, frame: Frame, placement: Placement) -> None:
        ends = [row for row, node in enumerate(frame.nodes) if node.wants_verdict]
        hidden = self._span.forward([_span_input(self._kv, frame, placement, ends)])[0]
        if not ends:
            return
        logits: NDArray[np.float32] = self._span.logits(hidden[ends] if len(ends) > 1 else hidden[ends[0], None]).numpy()
        for row, here in zip(ends, logits, strict=True):
            belief = self._believe(frame.nodes[row], here, int(placement.positions[row]) + 1)
            self._tree.remember(frame.nodes[row].id, belief)

    def _believe(self, node: FrameNode, logits: NDArray[np.float32], position: int) -> Belief:
        rule = self._rule
        history = self._tree.stage.path(node.id) if rule.needs_history else _NO_HISTORY
        perturbed = scores(
            logits, history, rule.params, position=position, choice_index=rule.choice_index, normalised=False
        )
        return self._sharpness.believe(perturbed, rule.params.temperature)


def _span_input(kv: KvStore, frame: Frame, placement: Placement, ends: Sequence[int]) -> SpanInput:
    return SpanInput(
        kv=kv,
        slots=placement.slots,
        positions=placement.positions,
        visible=placement.visible,
        slot_positions=placement.slot_positions,
        tokens=np.array([node.token for node in frame.nodes], dtype=np.int64),
        hidden=None,
        asked=ends,
    )
