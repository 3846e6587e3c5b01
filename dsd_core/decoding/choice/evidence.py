"""What speaks for a forgiven draft: that target and drafter agree again after it."""

from collections.abc import Callable
from enum import Enum

from dsd_core.decoding.ids import NodeId
from dsd_core.decoding.tree import TokenTree, TreeNode


class After(Enum):
    """What comes after the positions that matched."""

    AWAITED = "awaited"
    """A verdict that is on its way."""
    NOTHING = "nothing"
    """A position that did not match, or one of which nobody has been asked."""
    END = "end"
    """The end of the answer."""


def stands(matched: int, after: After, window: int) -> bool | None:
    """Whether a draft stands after which so many positions matched; None: it waits.

    Where the answer ends first all that are left must match, and there must be one.
    """
    if matched >= window:
        return True
    return None if after is After.AWAITED else after is After.END and matched > 0


def matches(
    tree: TokenTree, draft: TreeNode, *, is_last: Callable[[TreeNode], bool], is_awaited: Callable[[NodeId], bool]
) -> tuple[int, After]:
    """How many positions after the draft match in a row, and what comes then.

    One matches where the drafter's first candidate is what the target chooses. Told from the tree alone, so verdicts that
    come twice or in another order make no difference.
    """
    matched, node = 0, draft
    while not is_last(node):
        if node.verdict is None:
            return matched, After.AWAITED if is_awaited(node.id) else After.NOTHING
        child = tree.child(node.id, node.verdict.choice)
        if child is None or child.rank > 0:
            return matched, After.NOTHING
        matched, node = matched + 1, child
    return matched, After.END
