"""Drafting without a model: what followed the last few tokens, the last time they stood together (prompt lookup decoding)."""

from collections.abc import Sequence

from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.prefix import common_prefix

LONGEST = 3


class NgramIndex:
    """Where each run of up to LONGEST tokens of a text last stood, and went on.

    The text is followed as it grows, so that looking up costs the same however long it is.
    """

    def __init__(self) -> None:
        self._text: list[TokenId] = []
        self._next: dict[tuple[TokenId, ...], TokenId] = {}
        """What followed the latest occurrence of a run."""

    def follow(self, text: Sequence[TokenId]) -> None:
        """Note what is new in `text`. What was rewound is as if it had never been."""
        common = common_prefix(self._text, text)
        if common < len(self._text):
            self._text, self._next, common = [], {}, 0
        for end in range(common, len(text)):
            self._text.append(text[end])
            for length in range(1, min(LONGEST, end) + 1):
                self._next[tuple(text[end - length : end])] = text[end]

    def after(self, tail: Sequence[TokenId]) -> dict[TokenId, int]:
        """What followed the end of the text and `tail` before, and how many tokens the two places had in common.

        The longest match first. Runs inside the tail itself are not looked at.
        """
        end = (*self._text[-LONGEST:], *tail)[-LONGEST:]
        found: dict[TokenId, int] = {}
        for length in range(len(end), 0, -1):
            token = self._next.get(end[-length:])
            if token is not None:
                found.setdefault(token, length)
        return found
