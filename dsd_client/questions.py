"""Prompts whose answers can be judged: made-up word problems, GSM8K's questions, HumanEval's functions."""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from dsd_client.prompt_file import read_records
from dsd_core.embedded.word_problems import Split, draw, final_number, is_correct

Judge = Callable[[str], bool]
"""Whether the text that was written after a prompt is right."""


@dataclass(frozen=True, slots=True)
class Questions:
    """`judges` by prompt; there are none for prompts of which nobody can say what is right."""

    name: str
    prompts: Sequence[str]
    judges: Mapping[str, Judge]

    def right(self, prompts: Sequence[str], texts: Sequence[str]) -> list[bool] | None:
        """Which of the texts are, each written after its prompt; None where that cannot be said of all of them."""
        if not self.judges.keys() >= set(prompts):
            return None
        return [self.judges[prompt](text) for prompt, text in zip(prompts, texts, strict=True)]


def made_up(count: int, seed: int = 1) -> Questions:
    """Word problems that the embedded target was not trained on."""
    rng = Random(seed)
    problems = [draw(rng, Split.HELD_OUT) for _ in range(count)]
    judges = {problem.prompt: partial(is_correct, problem) for problem in problems}
    return Questions("made-up word problems", [problem.prompt for problem in problems], judges)


def read_questions(path: Path, limit: int | None = None) -> Questions:
    """Those of a file of prompts. Of GSM8K the final number counts, of HumanEval that all but the last line is Python."""
    records = read_records(path, limit)
    judges = {prompt: judge for prompt, record in records if (judge := _judge(prompt, record)) is not None}
    return Questions(path.stem, [prompt for prompt, _ in records], judges)


def _judge(prompt: str, record: Any) -> Judge | None:
    match record:
        case {"question": str(), "answer": str(answer)}:
            number = final_number(answer.replace(",", ""))
            return None if number is None else lambda text: final_number(text) == number
        case {"prompt": str(), "entry_point": str()}:
            return lambda text: _parses(prompt + text)
        case _:
            return None


def _parses(program: str) -> bool:
    """A completion may stop in the middle of a line."""
    for text in (program, program.rsplit("\n", 1)[0]):
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return True
    return False
