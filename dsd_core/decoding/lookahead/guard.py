"""The promise: never slower than plain decoding or the best blocking speculation."""

from dataclasses import dataclass

TOKENS = 96
"""Over which a speed is measured, and for how many tokens the guard stays engaged the first time."""
MOST_TOKENS = 3072
"""For how many it stays engaged at most: each failure of streaming in a row doubles it."""
TOLERANCE = 1.03
FADING = 0.8
"""What a slow fallback counts for, each time that streaming was good enough: what made it slow may be gone."""


@dataclass(slots=True)
class Guard:
    """Told each token's time; `engaged` while one frame at a time does better than streaming did.

    A session that is busy otherwise between two tokens calls `pause`: that time is nobody's speed.
    """

    engaged: bool = False
    engagements: int = 0
    _stay: int = TOKENS // 2
    """For how many tokens it was engaged last."""
    _right: int = 0
    _judged: int = 0
    _tokens: int = 0
    _seconds: float = 0.0
    _last: float | None = None
    _fallback: float = 0.0
    """Seconds a token when it was last engaged. What was measured counts for more than what was promised."""

    def pause(self) -> None:
        self._last = None

    @property
    def is_due(self) -> bool:
        """Enough tokens have been seen to decide."""
        return self._tokens >= (self._stay if self.engaged else TOKENS)

    def acceptance(self, otherwise: float) -> float:
        """The share of right first candidates among these very tokens: luck with the text is no merit of a way to decode."""
        return min(self._right / self._judged, 0.99) if self._judged else otherwise

    def on_judged(self, *, right: bool) -> None:
        """A first candidate was, or was not, what the target chose."""
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
        seconds_a_token = self._seconds / self._tokens
        self._tokens, self._seconds = 0, 0.0
        self._right = self._judged = 0
        if self.engaged:
            self._fallback = seconds_a_token
            self.engaged = False
        elif seconds_a_token > TOLERANCE * max(promised, self._fallback):
            self.engaged = True
            self.engagements += 1
            self._stay = min(2 * self._stay, MOST_TOKENS)
        else:
            self._stay = TOKENS // 2
            self._fallback *= FADING
