"""Drafting without a model: what followed the last few tokens, the last time they stood together."""

from collections.abc import Sequence

from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId


def propose(context: Sequence[TokenId], steps: int, *, longest: int = 3, confidence: float = 0.5) -> tuple[DraftedToken, ...]:
    """Up to `steps` tokens that followed the latest earlier occurrence of the context's end (prompt lookup decoding).

    Ends of `longest` tokens are tried first, then shorter ones; none when even the last token is new.
    """
    for length in range(min(longest, len(context) - 1), 0, -1):
        start = _latest(context, length)
        if start is not None:
            return tuple(DraftedToken(token, confidence) for token in context[start : start + steps])
    return ()


def _latest(context: Sequence[TokenId], length: int) -> int | None:
    """Where the text goes on after the latest earlier occurrence of its last `length` tokens."""
    ending = context[-length:]
    for start in range(len(context) - length - 1, -1, -1):
        if context[start] == ending[0] and context[start : start + length] == ending:
            return start + length
    return None
