"""What the target reads, and when: easy made-up problems first, then the full mix."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from dsd_core.embedded.corpus import Difficulty, Document, made_up


@dataclass(frozen=True)
class Mix:
    """The shares of documents: made-up problems, GSM8K, and functions for the rest."""

    made_up: float
    gsm8k: float
    difficulty: Difficulty


@dataclass(frozen=True)
class Library:
    """The fixed documents."""

    gsm8k: list[Document]
    functions: list[Document]

    def documents(self, rng: Random, mix: Callable[[], Mix]) -> Iterator[Document]:
        """Draw without end from whatever `mix` says at the time."""
        while True:
            yield self._draw(rng, mix())

    def _draw(self, rng: Random, mix: Mix) -> Document:
        kind = rng.random()
        if kind < mix.made_up:
            return made_up(rng, mix.difficulty)
        return rng.choice(self.gsm8k if kind < mix.made_up + mix.gsm8k else self.functions)


# A made-up problem is half as long as the other documents: 0.78 of the documents are about 65 % of the tokens, 0.60
# about 45 %. The last stage is for the language: by then four of five held-out problems are answered.
_STAGES: Final = (
    (0.05, Mix(0.80, 0.13, Difficulty(1, 2, 30, drills=0.3))),
    (0.15, Mix(0.78, 0.15, Difficulty(1, 3, 60, drills=0.2))),
    (0.30, Mix(0.78, 0.15, Difficulty(2, 4, 100, drills=0.08))),
    (1.00, Mix(0.60, 0.29, Difficulty(2, 4, 100, drills=0.08))),
)


def target_mix(fraction: float) -> Mix:
    """The mix at `fraction` of the training time."""
    return next((mix for until, mix in _STAGES if fraction < until), _STAGES[-1][1])
