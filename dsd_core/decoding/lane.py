"""One chain of stages, and what it has seen of a session's tree."""

from collections.abc import Iterable, Iterator
from itertools import takewhile

from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.ids import ROOT, LaneId, NodeId
from dsd_core.decoding.round_clock import RoundClock
from dsd_core.decoding.tree import TokenTree, TreeNode
from dsd_core.errors import ProtocolError

FEED_LAG = 16
"""Committed tokens that a lane which stands by may lack before it is fed: fewer, and it works as hard as one that serves."""


class Lane:
    """Nodes in the order in which this lane got them: stages want ids that only grow, and each lane is sent its own subset.

    So a node has one id in the session's tree and another, its number, in each lane.
    """

    def __init__(self, lane: LaneId, clock: RoundClock) -> None:
        self.id = lane
        self.clock = clock
        self._latest = ROOT
        """The youngest of the committed nodes that a verdict has come for."""
        self.draining = False
        self.overdue = False
        self.fed: NodeId | None = None
        """The end of what it was sent to keep up and has not answered for."""
        self._numbers: dict[NodeId, NodeId] = {ROOT: ROOT}
        self._nodes: dict[NodeId, NodeId] = {ROOT: ROOT}
        self._next = NodeId(1)

    @property
    def answered(self) -> bool:
        """A verdict has come from it."""
        return self._latest > ROOT

    def hear(self, committed: Iterable[NodeId]) -> bool:
        """Whether its verdicts, for these committed nodes by its own numbers, go further than those before: to repeat itself,
        say nothing, or speak of drafts while the tip waits keeps no lane alive."""
        before = self._latest
        self._latest = max([before, *committed])
        return self._latest > before

    @property
    def leaves(self) -> bool:
        """Another is to take its place."""
        return self.draining or self.overdue

    def has_seen(self, node: NodeId) -> bool:
        return node in self._numbers

    def drafts(self, tree: TokenTree) -> Iterator[NodeId]:
        """Those of the tree that it has seen. What hangs below the tip was sent after it."""
        tip = tree.tip.id
        if not self.has_seen(tip):
            return iter(())
        return filter(tree.__contains__, takewhile(tip.__ne__, reversed(self._numbers)))

    def node(self, number: NodeId) -> NodeId | None:
        """The tree's id of a node that this lane knows by `number`; None once it is forgotten."""
        if number >= self._next:
            raise ProtocolError(f"a verdict came for node {number}, which was never sent")
        return self._nodes.get(number)

    def missing_path(self, tree: TokenTree) -> list[TreeNode]:
        """The end of the committed path that this lane has not seen, first to last."""
        missing: list[TreeNode] = []
        for node in tree.path_back():
            if self.has_seen(node.id):
                break
            missing.append(node)
        return missing[::-1]

    def missing_drafts(self, tree: TokenTree, drafts: Iterable[NodeId]) -> list[TreeNode]:
        """Of the drafts and of those that lead to them, what this lane has not seen, parents first."""
        missing: dict[NodeId, TreeNode] = {}
        for draft in drafts:
            branch: list[TreeNode] = []
            node = tree[draft]
            while node.position > tree.tip.position and node.id not in missing and not self.has_seen(node.id):
                branch.append(node)
                node = tree[node.parent]
            missing |= {node.id: node for node in reversed(branch)}
        return list(missing.values())

    def is_warm(self, tree: TokenTree) -> bool:
        """It has answered and keeps up: its next frame takes no longer than any other."""
        return self.answered and self.has_seen(tree.above_tip(FEED_LAG - 1))

    def hungers(self, tree: TokenTree) -> bool:
        """It lacks enough to be fed. What it was fed last paces the next: it is answered for first."""
        enough = FEED_LAG - 1 if self.answered else 0
        return self.fed is None and not self.has_seen(tree.above_tip(enough))

    def owes(self, tree: TokenTree) -> bool:
        """An answer of it is awaited: what follows the tip, or that it has digested what it was fed."""
        return self.fed is not None or self.has_seen(tree.tip.id)

    def frame(self, nodes: Iterable[tuple[TreeNode, bool]], keep: TreeNode) -> Frame:
        """Number the nodes, each with whether a verdict is wanted, and send them; parents come before children."""
        numbered = tuple(
            FrameNode(self._number(node.id), self._numbers[node.parent], node.token, wants_verdict)
            for node, wants_verdict in nodes
        )
        return Frame(numbered, keep=self._numbers[keep.id])

    def forget_dropped(self, tree: TokenTree) -> None:
        """Let go of nodes that the tree has dropped, once they are most of what is remembered."""
        if len(self._numbers) <= 2 * len(tree) + 64:
            return
        self._numbers = {node: number for node, number in self._numbers.items() if node in tree}
        self._nodes = {number: node for node, number in self._numbers.items()}

    def _number(self, node: NodeId) -> NodeId:
        number = self._next
        self._next = NodeId(number + 1)
        self._numbers[node] = number
        self._nodes[number] = node
        return number
