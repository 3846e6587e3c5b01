"""The promise: never slower than plain decoding or the best blocking speculation.

    streaming --slower than one frame at a time is expected to be--> engaged, twice as long after each failure in a row
    streaming --hardly faster than expected--> engaged for a trial: what it really takes corrects what is expected, and where
                                               that is less than streaming took it stays
    streaming --far slower, at a first look--> engaged too, for a trial if it never failed before
    nothing known of stages nearby--> engaged at first

What differs between ways to decode is what a miss costs, so it is misses that tell them apart: with nine drafts of ten right a
hundred tokens hold ten, of which luck may cover five or none.
"""

from dataclasses import dataclass
from math import inf, sqrt

TOKENS = 96
"""Over which a speed is measured, and for how many tokens the guard stays engaged the first time."""
LOOK_TOKENS, LOOK_MISSES, FAR_SLOWER = 24, 12, 1.25
"""So few tell what is far slower than expected: a short answer must not be over before the guard has looked, and where
streaming has failed before it is looked at as often."""
MOST_TOKENS = 3072
"""For how many it stays engaged at most: each failure of streaming in a row doubles it."""
TOLERANCE = 1.03
LUCK = 0.5
"""Of a time a token, as a share: what chance adds or takes where one miss was seen and nearly all drafts are right."""
KEPT = 0.5
"""What the tokens before the last decision still count for, while streaming goes on."""
SURE_MISSES = 4
"""So many make what one frame at a time took weigh as much as what was believed of it before."""
NEAR = 0.87
"""From this share of what is expected on, it is worth finding out: the sums leave out whatever processes share, and streaming
shares more than one frame at a time does."""
TRIAL_TOKENS = 48
TRIAL_AFTER = 16
"""So many decisions pass before the next trial."""
FADING = 0.9
"""What a correction still counts for, each time that streaming was good enough: what made sums wrong may be gone."""
MOST_WRONG = 2.0


@dataclass(slots=True)
class Guard:
    """Told each token's time; `engaged` while one frame at a time does better than streaming did.

    A session that is busy otherwise between two tokens calls `pause`: that time is nobody's speed.
    """

    engaged: bool = False
    engagements: int = 0
    has_looked: bool = False
    """Whether the tokens since the last decision have had their first look."""
    _stay: int = TOKENS // 2
    """For how many tokens it was engaged last, trials aside."""
    _is_trial: bool = False
    _streamed: float = 1.0
    """What streaming has taken of late, as a share of what one frame at a time was promised to take for the same text ..."""
    _streamed_misses: float = 0.0
    """... over so many misses."""
    _right: int = 0
    _judged: int = 0
    _tokens: int = 0
    _seconds: float = 0.0
    _last: float | None = None
    _correction: float = 1.0
    """What one frame at a time took when it was last engaged, as a share of what was promised then."""
    _promised: float = inf
    """Seconds a token, of one frame at a time, at the last decision."""
    _untried: int = TRIAL_AFTER
    """Decisions since a trial."""

    @classmethod
    def in_doubt(cls) -> "Guard":
        """One that begins engaged, for as long as after two failures: streaming has to show that it is better."""
        return cls(engaged=True, engagements=1, _stay=2 * TOKENS)

    def pause(self) -> None:
        self._last = None

    @property
    def is_due(self) -> bool:
        """Enough tokens have been seen to decide, or for a first look."""
        return self._tokens >= self._enough or (self._may_look and self._tokens >= LOOK_TOKENS) or self._is_late

    @property
    def _is_late(self) -> bool:
        """Streaming, tried again, has taken what was due for all the tokens of its trial, and has not come to its end."""
        due = FAR_SLOWER * self._correction * self._promised * LOOK_TOKENS
        return not self.engaged and self._has_failed and self._seconds > due

    @property
    def _may_look(self) -> bool:
        """A drafter that has stalled says nothing that could be judged, and one frame at a time is no better without it."""
        return not self.engaged and not self.has_looked and self._misses >= LOOK_MISSES

    @property
    def _enough(self) -> int:
        if self.engaged:
            return TRIAL_TOKENS if self._is_trial else self._stay
        return LOOK_TOKENS if self._has_failed else TOKENS

    @property
    def _has_failed(self) -> bool:
        """Streaming has, the last time: it is tried for shorter."""
        return self._stay >= TOKENS

    @property
    def _misses(self) -> int:
        return self._judged - self._right

    def acceptance(self, otherwise: float) -> float:
        """The share of right first candidates among these very tokens: luck with the text is no merit of a way to decode."""
        return min(self._right / self._judged, 0.99) if self._judged else otherwise

    def on_judged(self, *, right: bool) -> None:
        """A first candidate was, or was not, what the target chose."""
        if self._last is not None:
            self._judged += 1
            self._right += right

    def on_tokens(self, tokens: int, now: float) -> None:
        """So many more tokens are there."""
        if self._last is not None:
            self._tokens += tokens
            self._seconds += now - self._last
        self._last = now

    def decide(self, promised: float) -> None:
        """Engage, or let go. One frame at a time is promised to take `promised` seconds a token."""
        is_first_look = self._tokens < self._enough and not self._is_late
        self._promised = max(promised, 1e-9)
        taken = self._seconds / self._tokens / self._promised
        if is_first_look and taken <= FAR_SLOWER * self._correction:
            self.has_looked = True
            return
        before = self.engaged
        self._judge(taken, is_first_look=is_first_look)
        if self.engaged is not before:
            self.pause()  # To change takes a round trip once, and that is no speed.
        self._tokens, self._seconds = 0, 0.0
        self._right = self._judged = 0
        self.has_looked = False

    def _judge(self, taken: float, *, is_first_look: bool) -> None:
        if self.engaged:
            self._judge_one_at_a_time(taken)
        elif is_first_look:
            self._streamed = taken
            self._try()
        else:
            self._judge_streaming(taken)

    def _judge_one_at_a_time(self, taken: float) -> None:
        self.engaged = self._is_trial and taken * (TOLERANCE + self._luck(self._misses)) < self._streamed
        if self.engaged:
            self._stay_longer()
        sureness = self._misses / (self._misses + SURE_MISSES)
        self._correction += sureness * (min(max(taken, 1 / MOST_WRONG), MOST_WRONG) - self._correction)
        self._is_trial = False
        self._streamed_misses = 0.0

    def _judge_streaming(self, taken: float) -> None:
        self._untried += 1
        before, misses = KEPT * self._streamed_misses, max(1, self._misses)
        self._streamed_misses = before + misses
        self._streamed += misses / self._streamed_misses * (taken - self._streamed)
        if self._streamed > (TOLERANCE + self._luck(self._streamed_misses)) * self._correction:
            self._stay_longer()
            self._engage()
        elif self._streamed > NEAR * self._correction and self._untried > TRIAL_AFTER:
            self._try()
        elif self._streamed <= self._correction:
            self._stay = TOKENS // 2
            self._correction **= FADING

    def _luck(self, misses: float) -> float:
        """How far chance may take a time a token, as a share of it. Where every draft misses there is none."""
        return LUCK * self.acceptance(0.0) / sqrt(max(1.0, misses))

    def _try(self) -> None:
        """One frame at a time, to see whether it is better than what streaming took."""
        self._is_trial = True
        self._engage()

    def _stay_longer(self) -> None:
        self._stay = min(2 * self._stay, MOST_TOKENS)

    def _engage(self) -> None:
        self.engaged = True
        self.engagements += 1
        self._untried = 0
