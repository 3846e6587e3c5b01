"""The training text: GSM8K's training set, the standard library's functions, and made-up word problems."""

import ast
import json
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from dsd_core.embedded.word_problems import LIMIT, Problem, Split, draw, drill, prompt

_CALCULATOR: Final = re.compile(r"<<.*?>>")
_STANDARD_LIBRARY: Final = Path(sysconfig.get_path("stdlib"))
_MOST_CHARACTERS: Final = 1600


@dataclass(frozen=True)
class Document:
    """A text to learn: a prompt, which may weigh less, and what follows it up to the end of text."""

    prompt: str
    body: str
    prompt_weight: float = 1.0
    emphasises_numbers: bool = False


@dataclass(frozen=True)
class Difficulty:
    """How hard the made-up problems are at one moment of the curriculum."""

    fewest_steps: int = 2
    most_steps: int = 4
    most: int = LIMIT
    drills: float = 0.05


def gsm8k(path: Path) -> list[Document]:
    """The questions and worked answers of a GSM8K file, without the calculator's annotations."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Document(prompt(row["question"].strip()), " " + _CALCULATOR.sub("", row["answer"]).strip()) for row in rows]


def library_functions(root: Path = _STANDARD_LIBRARY) -> list[Document]:
    """Functions with docstrings from below `root`, tests excluded; the prompt ends with the docstring."""
    excluded = {"test", "tests", "idle_test", "site-packages", "lib2to3"}
    paths = [path for path in sorted(root.rglob("*.py")) if not excluded & set(path.relative_to(root).parts)]
    return [document for path in paths for document in _functions(path)]


def made_up(rng: Random, difficulty: Difficulty) -> Document:
    """One training problem, or now and then a drill."""
    if rng.random() < difficulty.drills:
        return Document("", drill(rng, difficulty.most), emphasises_numbers=True)
    num_steps = rng.randint(difficulty.fewest_steps, difficulty.most_steps)
    return _problem_document(draw(rng, Split.TRAIN, num_steps, difficulty.most))


def _problem_document(problem: Problem) -> Document:
    return Document(problem.prompt, " " + problem.solution, prompt_weight=0.1, emphasises_numbers=True)


def _functions(path: Path) -> Iterator[Document]:
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError):  # the library keeps a few broken files on purpose
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            yield from _function(lines, node)


def _function(lines: list[str], node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Document]:
    first = node.lineno - 1
    text = textwrap.dedent("\n".join(lines[first : node.end_lineno]))
    num_head = len(lines[first : node.body[0].end_lineno])
    head = "\n".join(text.split("\n")[:num_head])
    if len(node.body) > 1 and len(text) <= _MOST_CHARACTERS:
        yield Document(head, text[len(head) :])
