"""The embedded drafter is right as often as it says, greedy and not."""

from random import Random

import numpy as np
import pytest

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.belief import Sharpness
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.embedded import DRAFTER, TARGET
from dsd_core.embedded.vocabulary import load_tokenizer
from dsd_core.embedded.word_problems import Split, draw
from dsd_core.model.drafter import ModelDrafter
from dsd_core.model.source import resolve
from dsd_core.model.span import Span

PROMPTS, TOKENS, CANDIDATES = 6, 50, 4


@pytest.fixture(scope="module")
def pair(quiet: None) -> tuple[Span, Span]:
    sources = [resolve(str(folder)) for folder in (TARGET, DRAFTER)]
    target, drafter = (Span.load(source, range(source.num_layers), device="cpu") for source in sources)
    return target, drafter


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_confidence_is_calibrated(pair: tuple[Span, Span], temperature: float) -> None:
    chance, tokenizer, sharpness = Random(4), load_tokenizer(TARGET), Sharpness()
    judged: list[tuple[float, bool]] = []
    firsts: list[tuple[float, bool]] = []
    for seed in range(PROMPTS):
        rule = ChoiceRule(SamplingParams(temperature=temperature, seed=seed))
        text = tokenizer.encode(draw(chance, Split.HELD_OUT).prompt).ids
        target, drafter = ModelDrafter(pair[0], rule, 400), ModelDrafter(pair[1], rule, 400, sharpness=sharpness)
        for _ in range(TOKENS):
            contexts = Contexts(tuple(text), ((),))
            ((choice,),) = target.guess(contexts, 1)
            (candidates,) = drafter.guess(contexts, CANDIDATES)
            found = [(candidate.confidence, candidate.token == choice.token) for candidate in candidates]
            judged += found
            firsts.append(found[0])
            text.append(choice.token)
    believed, right = np.array(judged).T
    tenths = np.minimum((believed * 10).astype(int), 9)
    gaps = [abs(float((believed - right)[tenths == tenth].sum())) for tenth in range(10)]
    assert sum(gaps) / (PROMPTS * TOKENS) < 0.12, "the mean gap between what is believed of a position and what comes true"
    believed_first, right_first = np.array(firsts).mean(axis=0)
    assert believed_first == pytest.approx(right_first, abs=0.06)
    assert right_first > 0.5
