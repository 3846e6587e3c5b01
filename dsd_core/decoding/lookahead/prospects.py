"""The drafts of a session in order of worth: by the chance that the target will commit them."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log

from dsd_core.decoding.ids import ROOT, NodeId
from dsd_core.decoding.lookahead.reliability import Reliability
from dsd_core.decoding.tree import TokenTree, TreeNode

_NEVER = 1e-12


@dataclass(frozen=True, slots=True)
class Prospect:
    """A node, and the chance that it will be committed, given the tip."""

    node: TreeNode
    probability: float


class Prospects:
    """Two queues over one tree, the likeliest first: drafts to be sent, and ends to draft after.

    Best-first search by joint probability (SpecExec, arXiv 2406.02532): parents come before their children. A node's worth is
    a sum of logarithms that starts somewhere on the committed path, so it stands when the tip moves on.
    """

    def __init__(self, tree: TokenTree, reliability: Reliability) -> None:
        self._tree = tree
        self._reliability = reliability
        self._worth: dict[NodeId, float] = {}
        self._latest = ROOT
        self._tip = ROOT
        self._expected: float | None = None
        """Of what waits, kept up to date; None where it has to be summed anew, since the tip has moved."""
        self._unsent: list[tuple[float, NodeId]] = []
        self._ends: list[tuple[float, NodeId]] = []

    def refresh(self) -> None:
        """Take in what the tree has gained. Where the tip is none of the drafts they are all gone, and it starts anew."""
        tip = self._tree.tip.id
        if tip not in self._worth or len(self._worth) > 2 * len(self._tree) + 64:
            self.start_anew()
        if tip != self._tip:
            self._tip, self._expected = tip, None
        for node in self._tree.since(self._latest):
            self._add(node)

    def start_anew(self) -> None:
        """Every draft is unsent again."""
        tip = self._tree.tip
        self._worth = {tip.id: 0.0}
        self._unsent, self._ends = [], [(0.0, tip.id)]
        self._latest = tip.id
        self._expected = None

    @property
    def waiting(self) -> int:
        """At most so many are to be sent."""
        return len(self._unsent)

    def best_unsent(self, is_done: Callable[[TreeNode], bool]) -> Prospect | None:
        """The likeliest draft that is not done, by `is_done`: what is done once is done for good."""
        return self._best(self._unsent, is_done)

    def expected(self, is_done: Callable[[TreeNode], bool]) -> float:
        """How many of the drafts that are not done, by `is_done`, the target may be expected to commit."""
        if self._expected is None:
            waiting = (worth for worth, node in self._unsent if node in self._tree and not is_done(self._tree[node]))
            self._expected = sum(map(self._chance, waiting))
        return self._expected

    def best_end(self, is_done: Callable[[TreeNode], bool]) -> Prospect | None:
        """The likeliest node to draft after, the tip among them, likewise."""
        return self._best(self._ends, is_done)

    def take_unsent(self) -> None:
        """The best is being sent."""
        worth, _ = heapq.heappop(self._unsent)
        if self._expected is not None:
            self._expected = max(0.0, self._expected - self._chance(worth))

    def take_end(self) -> None:
        """The best is being drafted after."""
        heapq.heappop(self._ends)

    def _best(self, queue: list[tuple[float, NodeId]], is_done: Callable[[TreeNode], bool]) -> Prospect | None:
        while queue:
            worth, node = queue[0]
            if node in self._tree and not is_done(self._tree[node]):
                return Prospect(self._tree[node], self._chance(worth))
            heapq.heappop(queue)
        return None

    def _chance(self, worth: float) -> float:
        """Of a queue's entry, given the tip."""
        return exp(-worth - self._worth[self._tree.tip.id])

    def _add(self, node: TreeNode) -> None:
        self._latest = node.id
        above = self._worth.get(node.parent)
        if above is not None:
            worth = above + log(max(_NEVER, self._reliability.belief(node.rank, node.confidence)))
            self._worth[node.id] = worth
            heapq.heappush(self._unsent, (-worth, node.id))
            heapq.heappush(self._ends, (-worth, node.id))
            if self._expected is not None:
                self._expected += self._chance(-worth)
