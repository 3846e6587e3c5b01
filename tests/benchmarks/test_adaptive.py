"""The replay of adaptive acceptance writes what decoding would."""

from dataclasses import replace
from random import Random

import pytest

from benchmarks.adaptive import Rule, Text, Writer
from dsd_core.decoding.choice.acceptance import Adaptive, Exact
from dsd_core.embedded import DRAFTER, TARGET
from dsd_core.embedded.continuations import continuations
from dsd_core.embedded.shapes import load_model
from dsd_core.embedded.vocabulary import load_tokenizer
from dsd_core.embedded.word_problems import Split, draw

TARGET_MODEL, DRAFTER_MODEL = load_model(TARGET).float(), load_model(DRAFTER).float()
EVERYTHING_GOES = Adaptive(20.0, weighs_importance=False)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    tokenizer, rng = load_tokenizer(TARGET), Random(4)
    return [tokenizer.encode(draw(rng, Split.HELD_OUT).prompt).ids for _ in range(8)]


@pytest.fixture(scope="module")
def plain(prompts: list[list[int]]) -> list[list[int]]:
    return continuations(TARGET_MODEL, prompts, 112)


def write(prompts: list[list[int]], rule: Rule) -> list[Text]:
    return Writer(TARGET_MODEL, DRAFTER_MODEL, rule).write(prompts)


def test_the_exact_rule_writes_what_the_target_writes(prompts: list[list[int]], plain: list[list[int]]) -> None:
    texts = write(prompts, Rule("exact", Exact()))
    assert [text.tokens for text in texts] == plain
    assert all(text.relaxed == text.drift == 0 for text in texts)


def test_what_is_forgiven_is_written_and_counted(prompts: list[list[int]], plain: list[list[int]]) -> None:
    texts = write(prompts, Rule("fixed", EVERYTHING_GOES))
    assert [text.tokens for text in texts] != plain
    assert sum(text.relaxed for text in texts) > 10
    assert all(0 < text.largest <= text.drift for text in texts if text.relaxed)


def test_what_the_evidence_speaks_against_is_taken_back_without_a_trace(
    prompts: list[list[int]], plain: list[list[int]]
) -> None:
    """A drafter that always errs gives no evidence for itself."""
    texts = write(prompts, Rule("late", replace(EVERYTHING_GOES, window=3), wrong=True))
    assert [text.tokens for text in texts] == plain
    assert all(text.relaxed == text.drift == 0 for text in texts)
