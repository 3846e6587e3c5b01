"""How often sources of guesses have been right, by whatever tells one kind of guess from another."""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.prefix import common_prefix

WEIGHT = 4.0
"""Judged guesses that the prior counts for."""
MEMORY = 128
"""Judged guesses of one kind that count."""
UNDECIDED = 1024
"""Guesses that may wait for a judgement."""


@dataclass(slots=True)
class HitRate:
    """A running share, from a prior."""

    prior: float
    _right: float = 0.0
    _judged: float = 0.0

    @property
    def value(self) -> float:
        return (self._right + WEIGHT * self.prior) / (self._judged + WEIGHT)

    def judge(self, right: bool) -> None:
        self._right += right - self._right / MEMORY
        self._judged += 1 - self._judged / MEMORY


@dataclass(frozen=True, slots=True)
class _Guess:
    """`token` for the position after `tail`, which follows the first `start` tokens of the text."""

    kind: Hashable
    start: int
    tail: tuple[TokenId, ...]
    token: TokenId


@dataclass(slots=True)
class HitRates:
    """Guesses wait until the text has grown past their position; those on a path that was not taken are never judged."""

    prior: float
    _rates: dict[Hashable, HitRate] = field(default_factory=dict)
    _text: list[TokenId] = field(default_factory=list)
    _undecided: deque[_Guess] = field(default_factory=lambda: deque(maxlen=UNDECIDED))

    def of(self, kind: Hashable) -> float:
        return self._rates.setdefault(kind, HitRate(self.prior)).value

    def guessed(self, kind: Hashable, tail: tuple[TokenId, ...], token: TokenId) -> None:
        """That `token` follows the text and `tail`."""
        self._undecided.append(_Guess(kind, len(self._text), tail, token))

    def follow(self, text: Sequence[TokenId]) -> None:
        """The text has grown, or been rewound, which forgets what was guessed."""
        common = common_prefix(self._text, text)
        if common < len(self._text):
            self._undecided.clear()
        self._text[common:] = text[common:]
        for _ in range(len(self._undecided)):
            self._judge(self._undecided.popleft())

    def _judge(self, guess: _Guess) -> None:
        end = guess.start + len(guess.tail)
        known = tuple(self._text[guess.start : end])
        if known != guess.tail[: len(known)]:
            return
        if end < len(self._text):
            self._rates.setdefault(guess.kind, HitRate(self.prior)).judge(self._text[end] == guess.token)
        else:
            self._undecided.append(guess)
