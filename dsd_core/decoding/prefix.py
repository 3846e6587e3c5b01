"""What two token sequences have in common from the start: what need not be sent, or computed, again."""

from collections.abc import Sequence

from dsd_core.decoding.ids import TokenId


def common_prefix(first: Sequence[TokenId], second: Sequence[TokenId]) -> int:
    """How many tokens are shared from the start. Mostly one goes on where the other ends, and slices compare fast."""
    shorter = min(len(first), len(second))
    if list(first[:shorter]) == list(second[:shorter]):
        return shorter
    return next(index for index in range(shorter) if first[index] != second[index])
