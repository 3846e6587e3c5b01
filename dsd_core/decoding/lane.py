"""What one chain of stages has seen of a session's tree."""

from collections.abc import Iterable

from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.ids import ROOT, NodeId
from dsd_core.decoding.tree import TokenTree, TreeNode
from dsd_core.errors import ProtocolError


class Lane:
    """Nodes in the order in which this lane got them: stages want ids that only grow, and each lane is sent its own subset.

    So a node has one id in the session's tree and another, its number, in each lane.
    """

    def __init__(self) -> None:
        self._numbers: dict[NodeId, NodeId] = {ROOT: ROOT}
        self._nodes: dict[NodeId, NodeId] = {ROOT: ROOT}
        self._next = NodeId(1)

    def has_seen(self, node: NodeId) -> bool:
        return node in self._numbers

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
