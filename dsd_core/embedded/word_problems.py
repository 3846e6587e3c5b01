"""Made-up word problems of two to four steps, whose answers can be checked.

A problem is a *combination* (story, names, order of operations) filled with *numbers*. Both are split by hash: a
held-out problem has an unseen combination and an unseen tuple of numbers; a training problem has neither.
Standard library only; every draw comes from the `random.Random` that is passed in.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

LIMIT: Final = 100
"""No quantity, in between or in the end, is above this."""

_HELD_OUT_EVERY: Final = 8
_FINAL: Final = re.compile(r"#### (-?\d+)(?!\d)")


class Split(Enum):
    """Which side of the hash a problem comes from."""

    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Problem:
    """A question with its worked solution; `solution` is one of many equally likely phrasings."""

    question: str
    solution: str
    answer: int
    num_steps: int
    numbers: tuple[int, ...]
    combination: tuple[str, ...]

    @property
    def prompt(self) -> str:
        return prompt(self.question)


@dataclass(frozen=True)
class Story:
    """The words of one setting: what is counted, what holds it, how it comes and goes."""

    items: str
    holder: str
    gains: tuple[str, ...]
    losses: tuple[str, ...]


@dataclass(frozen=True)
class Cast:
    """Who is in the problem."""

    name: str
    subject: str
    friend: str


@dataclass(frozen=True)
class Step:
    """One calculation of the solution: `left operator right = result`, said by `openers` and counted in `unit`."""

    left: int
    operator: str
    right: int
    result: int
    openers: tuple[str, ...]
    unit: str


STORIES: Final = {
    "beach": Story(
        "shells", "bag",
        ("finds {n} more {items}", "picks up {n} {items}"),
        ("loses {n} {items}", "gives {n} {items} to {friend}"),
    ),
    "bakery": Story(
        "cookies", "tray",
        ("bakes {n} more {items}", "makes {n} new {items}"),
        ("sells {n} {items}", "eats {n} {items}"),
    ),
    "school": Story(
        "pencils", "box",
        ("buys {n} more {items}", "gets {n} {items} from {friend}"),
        ("breaks {n} {items}", "lends {n} {items} to {friend}"),
    ),
    "orchard": Story(
        "apples", "basket",
        ("picks {n} more {items}", "gathers {n} {items}"),
        ("eats {n} {items}", "drops {n} {items}"),
    ),
    "library": Story(
        "books", "shelf",
        ("borrows {n} more {items}", "buys {n} {items}"),
        ("returns {n} {items}", "gives {n} {items} to {friend}"),
    ),
    "album": Story(
        "stickers", "pack",
        ("collects {n} more {items}", "wins {n} {items}"),
        ("trades away {n} {items}", "loses {n} {items}"),
    ),
    "garden": Story(
        "flowers", "row",
        ("plants {n} more {items}", "grows {n} new {items}"),
        ("cuts {n} {items}", "sells {n} {items}"),
    ),
    "farm": Story(
        "eggs", "carton",
        ("collects {n} more {items}", "buys {n} {items}"),
        ("breaks {n} {items}", "cooks {n} {items}"),
    ),
}  # fmt: skip

_SHE: Final = ("Mia", "Emma", "Ava", "Lily", "Zoe", "Anna", "Ella", "Sara", "Nora", "Ruth", "Ivy", "Maya")
_HE: Final = ("Leo", "Ben", "Max", "Sam", "Tom", "Jack", "Noah", "Liam", "Omar", "Paul", "Adam", "Hugo")

_OPENINGS: Final = {"has": 0, "holders": 1}
_MIDDLES: Final = {"gain": 1, "loss": 1, "times": 1, "share": 1, "holders of": 2}
_CLOSINGS: Final = {"now": 0, "price": 1, "more together": 2, "fewer together": 2, "times together": 2}
_SAYS_NOW: Final = ("", "{name} now has ", "That makes ", "So there are ", "Then {subject} has ")
_SAYS_GROUP: Final = ("", "That is ", "They hold ", "In these there are ")
_SAYS_FRIEND: Final = ("", "{friend} has ", "For {friend} that makes ", "So {friend} has ")
_SAYS_TOGETHER: Final = ("", "Together they have ", "That makes ", "In total there are ")
_SAYS_MONEY: Final = ("", "{name} gets ", "That makes ", "So {subject} earns ")
_ENDS: Final = (" {unit}.", " {unit} in all.", ".")


def prompt(question: str) -> str:
    """The shape in which every question is put to the pair."""
    return f"Question: {question}\nAnswer:"


def problems(rng: Random, split: Split, num_steps: int | None = None) -> Iterator[Problem]:
    """Draw problems of `split` without end, of `num_steps` steps or of two to four."""
    while True:
        yield draw(rng, split, num_steps)


def draw(rng: Random, split: Split, num_steps: int | None = None, most: int = LIMIT) -> Problem:
    """Draw one problem of `split` with no quantity above `most`; one of a single step only on request."""
    while True:
        story, cast, order = _draw_combination(rng, rng.randint(2, 4) if num_steps is None else num_steps)
        combination = (story, cast.name, cast.friend, *order)
        if side(combination) is not split:
            continue
        for _ in range(30):
            plot = _Plot(rng, STORIES[story], cast, most)
            if plot.tell(order) and side(tuple(plot.numbers)) is split:
                return plot.problem(combination)


def side(key: tuple[object, ...]) -> Split:
    """The split that a combination or a tuple of numbers belongs to, the same in every process."""
    bucket = zlib.crc32(repr(key).encode()) % _HELD_OUT_EVERY
    return Split.HELD_OUT if bucket == 0 else Split.TRAIN


def final_number(text: str) -> int | None:
    """The number after the first `####` of `text`, or None."""
    found = _FINAL.search(text)
    return int(found[1]) if found else None


def is_correct(problem: Problem, text: str) -> bool:
    """Whether `text`, written after the prompt, ends in the right number."""
    return final_number(text) == problem.answer


def drill(rng: Random, most: int = LIMIT, num_lines: int = 6) -> str:
    """Lines of bare arithmetic, such as `12 + 7 = 19`, within the problems' range."""
    return "\n".join(_equation(*_draw_equation(rng, most)) for _ in range(num_lines))


def _draw_combination(rng: Random, num_steps: int) -> tuple[str, Cast, tuple[str, ...]]:
    return rng.choice(sorted(STORIES)), _draw_cast(rng), _draw_order(rng, num_steps)


def _draw_cast(rng: Random) -> Cast:
    name, friend = rng.sample(_SHE + _HE, 2)
    return Cast(name, "she", friend) if name in _SHE else Cast(name, "he", friend)


def _draw_order(rng: Random, num_steps: int) -> tuple[str, ...]:
    """An opening, operations and a closing that take `num_steps` calculations together."""
    while True:
        opening, closing = rng.choice(sorted(_OPENINGS)), rng.choice(["now", *sorted(_CLOSINGS)])
        left = num_steps - _OPENINGS[opening] - _CLOSINGS[closing]
        middles: list[str] = []
        while left > 0:
            middles.append(rng.choice([kind for kind, cost in sorted(_MIDDLES.items()) if cost <= left]))
            left -= _MIDDLES[middles[-1]]
        if left == 0:
            return (opening, *middles, closing)


def _draw_equation(rng: Random, most: int) -> tuple[int, str, int, int]:
    operator = rng.choice("+-*/")
    if operator in "+-":
        total = rng.randint(2, most)
        part = rng.randint(1, total - 1)
        return (part, "+", total - part, total) if operator == "+" else (total, "-", part, total - part)
    factor = rng.randint(2, 10)
    other = rng.randint(1, max(1, most // factor))
    return (other, "*", factor, other * factor) if operator == "*" else (other * factor, "/", factor, other)


def _equation(left: int, operator: str, right: int, result: int) -> str:
    return f"{left} {operator} {right} = {result}"


class _Infeasible(Exception):
    """The numbers drawn so far leave no room for the next operation."""


class _Plot:
    """Tells one problem: collects the sentences of the question, the numbers given and the steps of the solution."""

    def __init__(self, rng: Random, story: Story, cast: Cast, most: int) -> None:
        self.rng, self.story, self.cast, self.most = rng, story, cast, most
        self.current = 0
        self.numbers: list[int] = []
        self.sentences: list[str] = []
        self.steps: list[Step] = []

    def tell(self, order: tuple[str, ...]) -> bool:
        """Draw the numbers for `order`; False if they leave the range."""
        tellers = {
            "has": self._has, "holders": self._holders, "gain": self._gain, "loss": self._loss, "times": self._times,
            "share": self._share, "holders of": self._holders_of, "now": self._now, "price": self._price,
            "more together": self._more, "fewer together": self._fewer, "times together": self._times_together,
        }  # fmt: skip
        try:
            for kind in order:
                tellers[kind]()
        except _Infeasible:
            return False
        return True

    def problem(self, combination: tuple[str, ...]) -> Problem:
        """The problem told; its solution is phrased by fresh draws."""
        answer = self.steps[-1].result
        lines = [*(self._phrase(step) for step in self.steps), f"#### {answer}"]
        numbers = tuple(self.numbers)
        return Problem(" ".join(self.sentences), "\n".join(lines), answer, len(self.steps), numbers, combination)

    def _has(self) -> None:
        self.current = self._number(2, min(60, self.most - 1))
        self._say(f"{{name}} {self.rng.choice(('has', 'starts with'))} {self.current} {{items}}.")

    def _holders(self) -> None:
        count, each = self._factors()
        self._say(f"{{name}} has {count} {{holders}} with {each} {{items}} each.")
        self.current = self._calculate(count, "*", each, _SAYS_GROUP)

    def _gain(self) -> None:
        count = self._number(2, min(40, self.most - self.current))
        self._say("{Subject} " + self.rng.choice(self.story.gains) + ".", count)
        self.current = self._calculate(self.current, "+", count, _SAYS_NOW)

    def _loss(self) -> None:
        count = self._number(2, min(40, self.current - 1))
        self._say("{Subject} " + self.rng.choice(self.story.losses) + ".", count)
        self.current = self._calculate(self.current, "-", count, _SAYS_NOW)

    def _times(self) -> None:
        factor = self._number(2, min(5, self.most // self.current))
        self._say(f"Then {{subject}} gets so many that {{subject}} has {factor} times as many {{items}}.")
        self.current = self._calculate(self.current, "*", factor, _SAYS_NOW)

    def _share(self) -> None:
        factors = [factor for factor in range(2, 6) if self.current % factor == 0 and self.current > factor]
        factor = self._one_of(factors)
        self._say(f"{{Subject}} splits them evenly into {factor} {{holders}} and keeps one {{holder}}.")
        self.current = self._calculate(self.current, "/", factor, _SAYS_NOW)

    def _holders_of(self) -> None:
        count, each = self._factors()
        self._say(f"{{Subject}} gets {count} {{holders}} with {each} {{items}} each.")
        added = self._calculate(count, "*", each, _SAYS_GROUP)
        self.current = self._calculate(self.current, "+", added, _SAYS_NOW)

    def _now(self) -> None:
        when = self.rng.choice(("now", "in the end"))
        self._say(f"How many {{items}} does {{name}} have {when}?")

    def _price(self) -> None:
        price = self._number(2, min(5, self.most // self.current))
        self._say(f"{{Subject}} sells all of them for {price} dollars each. How many dollars does {{name}} get?")
        self._calculate(self.current, "*", price, _SAYS_MONEY, unit="dollars")

    def _more(self) -> None:
        count = self._number(2, min(30, self.most - 2 * self.current))
        self._compare(f"{count} more {{items}} than", "+", count)

    def _fewer(self) -> None:
        count = self._number(2, min(30, self.current - 1))
        self._compare(f"{count} fewer {{items}} than", "-", count)

    def _times_together(self) -> None:
        factor = self._number(2, min(5, self.most // self.current - 1))
        self._compare(f"{factor} times as many {{items}} as", "*", factor)

    def _compare(self, relation: str, operator: str, count: int) -> None:
        self._say(f"{{friend}} has {relation} {{name}}. How many {{items}} do {{name}} and {{friend}} have together?")
        friends = self._calculate(self.current, operator, count, _SAYS_FRIEND)
        self._calculate(self.current, "+", friends, _SAYS_TOGETHER)

    def _number(self, least: int, most: int) -> int:
        return self._one_of(range(least, most + 1))

    def _factors(self) -> tuple[int, int]:
        count = self._number(2, 10)
        return count, self._number(2, min(10, self.most // count))

    def _one_of(self, choices: Sequence[int]) -> int:
        if not choices:
            raise _Infeasible
        self.numbers.append(self.rng.choice(choices))
        return self.numbers[-1]

    def _calculate(self, left: int, operator: str, right: int, openers: tuple[str, ...], unit: str = "{items}") -> int:
        result = {"+": left + right, "-": left - right, "*": left * right, "/": left // right}[operator]
        if not 0 < result <= self.most:
            raise _Infeasible
        self.steps.append(Step(left, operator, right, result, openers, unit))
        return result

    def _say(self, sentence: str, count: int = 0) -> None:
        self.sentences.append(sentence.format(n=count, **self._words()))

    def _phrase(self, step: Step) -> str:
        equation = _equation(step.left, step.operator, step.right, step.result)
        opener, end = self.rng.choice(step.openers), self.rng.choice(_ENDS)
        sentence = f"{opener}{equation}{end}".replace("{unit}", step.unit).format(**self._words())
        return sentence[0].upper() + sentence[1:]

    def _words(self) -> dict[str, str]:
        story, cast = self.story, self.cast
        holders = {"box": "boxes", "shelf": "shelves"}.get(story.holder, story.holder + "s")
        return {
            "items": story.items, "holder": story.holder, "holders": holders, "name": cast.name,
            "friend": cast.friend, "subject": cast.subject, "Subject": cast.subject.capitalize(),
        }  # fmt: skip
