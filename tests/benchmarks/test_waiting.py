"""The model that waits: it agrees as often as it is told to, and its stages carry trees as real ones do."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.waiting_drafter import WaitingDrafts, WaitingGuesser
from benchmarks.waiting_model import Agreement, WaitingModel
from benchmarks.waiting_span import StageTime, WaitingSpan
from dsd_core import embedded
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.ids import ROOT, NodeId, TokenId
from dsd_core.decoding.stage_tree import StageTree
from dsd_core.model.source import resolve
from dsd_core.model.span import SpanInput

MODEL = WaitingModel(seed=3, vocab_size=4096)
PATHS = MODEL.paths(range(6000))
AT_ONCE = StageTime(0.0, 0.0)


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("rate", [0.5, 0.7, 0.93])
def test_candidates_are_right_as_often_as_told(rate: float, spread: bool) -> None:
    agreement = Agreement(rate, spread=spread)
    ranks = Counter(agreement.at(path)[0] for path in PATHS)
    misses = len(PATHS) - ranks[0]
    assert ranks[0] / len(PATHS) == pytest.approx(rate, abs=0.02)
    for rank, share in enumerate(agreement.shares, 1):
        assert ranks[rank] / misses == pytest.approx(share, abs=0.05)
    assert sum(agreement.at(path)[1] for path in PATHS) / len(PATHS) == pytest.approx(rate, abs=0.03)


def test_belief_is_calibrated_and_tells_right_from_wrong() -> None:
    agreement = Agreement(0.7)
    seen = [(belief, rank == 0) for rank, belief in map(agreement.at, PATHS)]
    sure, unsure = [right for belief, right in seen if belief > 0.85], [right for belief, right in seen if belief < 0.5]
    assert np.mean(sure) == pytest.approx(np.mean([belief for belief, _ in seen if belief > 0.85]), abs=0.04)
    assert np.mean(unsure) == pytest.approx(np.mean([belief for belief, _ in seen if belief < 0.5]), abs=0.06)


def test_a_drafter_may_be_wrong_and_sure() -> None:
    agreement = Agreement(0.0, shares=(0.0, 0.0, 0.0), claimed=0.9)
    assert {agreement.at(path) for path in PATHS[:100]} == {(None, 0.9)}


def test_candidates_are_distinct_and_hold_the_choice_at_its_rank() -> None:
    agreement = Agreement(0.5)
    for path in PATHS[:500]:
        tokens = [token for token, _ in MODEL.candidates(path, agreement, 4)]
        rank, _ = agreement.at(path)
        assert len(set(tokens)) == 4
        assert (tokens.index(MODEL.choice(path)) if MODEL.choice(path) in tokens else None) == rank


def test_a_drafter_continues_the_contexts_it_is_shown_whatever_it_was_shown_before() -> None:
    guesser = WaitingGuesser(WaitingDrafts(MODEL, Agreement(1.0), step_seconds=0.0))
    for trunk, tails in (([5, 6], [[7], [9]]), ([5, 6, 9], [[], [10, 11]]), ([5, 6], [[]]), ([8], [[1]])):
        found = guesser.guess(Contexts(_tokens(trunk), tuple(map(_tokens, tails))), 2)
        paths = [MODEL.paths([*trunk, *tail])[-1] for tail in tails]
        assert [candidates[0].token for candidates in found] == [MODEL.choice(path) for path in paths]
        assert all(len(candidates) == 2 for candidates in found)


def _tokens(ids: Sequence[int]) -> tuple[TokenId, ...]:
    return tuple(map(TokenId, ids))


@pytest.mark.parametrize("cuts", [(0, 8), (0, 3, 8)])
def test_stages_follow_every_branch_and_choose_by_its_path(cuts: tuple[int, ...]) -> None:
    """A tree in two frames, a branch of it freed between them, so that slots are taken again."""
    source = resolve(str(embedded.TARGET))
    model = WaitingModel(3, source.vocab_size)
    spans = [WaitingSpan(source, range(*cut), model, AT_ONCE) for cut in pairwise(cuts)]
    tree = StageTree(8)
    stores = [span.reserve(8) for span in spans]

    def choices(frame: Frame) -> list[int]:
        tree.register(frame)
        placed = tree.place(frame)
        hidden: torch.Tensor | None = None
        for span, store in zip(spans, stores, strict=True):
            tokens = None if hidden is not None else np.array([node.token for node in frame.nodes])
            places = (placed.slots, placed.positions, placed.visible, placed.slot_positions)
            hidden = span.forward([SpanInput(store, *places, tokens=tokens, hidden=hidden)])[0]
        assert hidden is not None
        return [int(row.argmax()) for row in spans[-1].logits(hidden)]

    first = Frame(_nodes((1, ROOT, 50), (2, 1, 60), (3, 1, 61), (4, 3, 70)), ROOT)
    assert choices(first) == [model.choice(model.paths(path)[-1]) for path in ([50], [50, 60], [50, 61], [50, 61, 70])]
    second = Frame(_nodes((5, 2, 80), (6, 5, 90), (7, 2, 81)), NodeId(2))
    assert choices(second) == [model.choice(model.paths(path)[-1]) for path in ([50, 60, 80], [50, 60, 80, 90], [50, 60, 81])]


def _nodes(*rows: tuple[int, int, int]) -> tuple[FrameNode, ...]:
    return tuple(FrameNode(NodeId(node), NodeId(parent), TokenId(token)) for node, parent, token in rows)
