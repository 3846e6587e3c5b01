"""A model that drafts a tree: what it proposes is what it would propose for each context alone."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from dsd_core.decoding.choice.coupling import scores
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.contexts import Candidates, Contexts
from dsd_core.decoding.drafting.guessers import Stepwise
from dsd_core.model.drafter import ModelDrafter
from dsd_core.model.span import Span, SpanInput
from tests.conftest import LAYERS, TinyModel

GREEDY = SamplingParams(seed=0)
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, repetition_penalty=1.3, seed=3)
TRUNK = (5, 6, 7, 8, 9, 5, 6)
TAILS = ((), (3,), (4,), (3, 4), (3, 9, 1), (4, 4), (250, 2), (3, 9))


@pytest.fixture(scope="module")
def span(drafter: TinyModel) -> Span:
    return Span.load(drafter.source, range(LAYERS), device="cpu")


def drafting(span: Span, sampling: SamplingParams = GREEDY, capacity: int = 60) -> ModelDrafter:
    return ModelDrafter(span, ChoiceRule(sampling), capacity)


def guess(model: ModelDrafter, trunk: Sequence[int], *tails: Sequence[int], count: int = 4) -> tuple[Candidates, ...]:
    return model.guess(Contexts(trunk, tuple(map(tuple, tails))), count)  # type: ignore[arg-type]


def best_of(drafter: TinyModel, tokens: Sequence[int], sampling: SamplingParams, count: int) -> list[int]:
    """The best tokens after `tokens` by the whole model's perturbed scores."""
    with torch.no_grad():
        logits = drafter.model(torch.tensor([list(tokens)])).logits[0, -1].numpy()
    perturbed = scores(logits, np.array(tokens), sampling, position=len(tokens))
    return [int(token) for token in perturbed.tokens[perturbed.best(count)]]


def test_a_draft_goes_where_its_context_goes(span: Span, drafter: TinyModel) -> None:
    """Step by step it is what transformers generates, and the keys of an abandoned context are not taken for another's."""
    model = drafting(span, capacity=40)
    proposer = Stepwise(model)
    contexts = [[5, 6, 7], [5, 6, 7, 8, 9], [5, 6], [5, 9, 7, 8], [30] * 36, [5, 6, 7], [5, 6, 7]]
    for context in contexts:
        ((proposed,),) = proposer.propose(Contexts(context, ((),)), steps=5, candidates=1)  # type: ignore[arg-type]
        tokens = [drafted.token for drafted in proposed]
        drafter.greedy(context, len(tokens)).assert_same(tokens)
        assert len(tokens) == min(5, 41 - len(context))
    assert proposer.propose(Contexts([3] * 41, ((),)), steps=4, candidates=1) == ((),)  # type: ignore[arg-type, list-item]
    proposer.close()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_is_what_each_context_gives_alone(span: Span, drafter: TinyModel, sampling: SamplingParams) -> None:
    together = guess(drafting(span, sampling), TRUNK, *TAILS)
    for tail, candidates in zip(TAILS, together, strict=True):
        assert [candidate.token for candidate in candidates] == best_of(drafter, TRUNK + tail, sampling, 4)
        ((*alone,),) = guess(drafting(span, sampling), TRUNK, tail)
        assert [(one.token, pytest.approx(one.confidence, abs=1e-4)) for one in alone] == [
            (one.token, one.confidence) for one in candidates
        ]


def test_a_tree_of_drafts_over_a_moving_trunk(span: Span, drafter: TinyModel) -> None:
    """As a session asks: the trunk grows by what was drafted or otherwise, and is rewound."""
    model = drafting(span, SAMPLED, capacity=24)
    chance = np.random.default_rng(2)
    trunk = list(TRUNK)
    for _ in range(40):
        tails = [chance.integers(1, 5, size=chance.integers(0, 3)).tolist() for _ in range(3)]
        for tail, candidates in zip(tails, guess(model, trunk, *tails), strict=True):
            assert [one.token for one in candidates] == best_of(drafter, trunk + tail, SAMPLED, 4)
        trunk += tails[0][: chance.integers(0, 3)] + chance.integers(1, 5, size=chance.integers(0, 2)).tolist()
        del trunk[int(chance.integers(1, len(trunk) + 6)) :], trunk[12:]


def test_confidences_are_shares(span: Span) -> None:
    (candidates,) = guess(drafting(span), TRUNK, (), count=8)
    confidences = [candidate.confidence for candidate in candidates]
    assert confidences == sorted(confidences, reverse=True)
    assert min(confidences) > 0
    assert sum(confidences) <= 1 + 1e-6


def test_only_what_is_not_known_is_computed(span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    model, computed = drafting(span), []
    forward = span.forward

    def counted(batch: Sequence[SpanInput]) -> list[torch.Tensor]:
        computed.append([len(rows.slots) for rows in batch])
        return forward(batch)

    monkeypatch.setattr(span, "forward", counted)
    guess(model, TRUNK, ())
    guess(model, TRUNK, (3,), (4,), (5,))
    guess(model, TRUNK, (3, 1), (4, 1), (3,))
    guess(model, (*TRUNK, 3), ())
    guess(model, (*TRUNK, 3, 1, 2), (), (7,))
    assert computed == [[len(TRUNK)], [3], [2], [2]]


def test_memory_is_given_back(span: Span) -> None:
    model = drafting(span)
    model.close()
    with pytest.raises(ValueError, match="given back"):
        guess(model, TRUNK, ())
