"""The client's side of a session's tree: the committed path, and the drafts that hang off its tip.

    root -> prompt ... -> committed ... -> tip -> drafts, in branches

Only the path is certain. Everything below the tip is a guess; everything that is neither is forgotten.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.frames import Verdict
from dsd_core.decoding.ids import ROOT, LaneId, NodeId, TokenId


@dataclass(slots=True)
class TreeNode:
    """A token with a place. `rank` is its place among the candidates for its position: 0 is the drafter's first choice."""

    id: NodeId
    parent: NodeId
    token: TokenId
    position: int
    rank: int = 0
    confidence: float = 1.0
    """What the drafter believes that the target will choose this token, given that it chose the ones before."""
    verdict: Verdict | None = None
    judge: LaneId | None = None
    """Who gave the verdict."""
    expanded: bool = False
    """The drafter has said all that it has to say about the position after this one."""
    children: list[NodeId] = field(default_factory=list)


class TokenTree:
    """Nodes by id, numbered in growing order. The tip is the deepest committed node."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, TreeNode] = {ROOT: TreeNode(ROOT, ROOT, TokenId(0), position=-1)}
        self._path: list[NodeId] = []
        self._tokens: list[TokenId] = []
        self._next_id = NodeId(1)

    @property
    def tip(self) -> TreeNode:
        return self._nodes[self._path[-1]] if self._path else self._nodes[ROOT]

    @property
    def tokens(self) -> Sequence[TokenId]:
        """The committed tokens, prompt included. Not a copy."""
        return self._tokens

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, node: NodeId) -> TreeNode:
        return self._nodes[node]

    def __contains__(self, node: NodeId) -> bool:
        return node in self._nodes

    def has_committed(self, node: NodeId | None) -> bool:
        """It is on the path."""
        return node in self._nodes and self._nodes[node].position <= self.tip.position

    def add(self, parent: NodeId, token: TokenId, *, rank: int = 0, confidence: float = 1.0) -> TreeNode:
        """Hang a new node under `parent`."""
        above = self._nodes[parent]
        node = TreeNode(self._next_id, parent, token, above.position + 1, rank, confidence)
        self._next_id = NodeId(self._next_id + 1)
        self._nodes[node.id] = node
        above.children.append(node.id)
        return node

    def child(self, parent: NodeId, token: TokenId) -> TreeNode | None:
        """The child of `parent` that holds `token`."""
        for child in self._nodes[parent].children:
            if self._nodes[child].token == token:
                return self._nodes[child]
        return None

    def commit(self, node: TreeNode) -> None:
        """Move the tip to one of its children, and forget the child's siblings with all that hangs off them."""
        assert node.parent == self.tip.id, "tokens commit in order"
        above = self.tip
        self._forget([child for child in above.children if child != node.id])
        above.children = [node.id]
        self._path.append(node.id)
        self._tokens.append(node.token)

    def rewind(self, length: int) -> None:
        """Shorten the committed path to `length` tokens and forget all below it."""
        del self._path[length:], self._tokens[length:]
        self._forget_children(self.tip.id)
        self.tip.expanded = False

    def drafts(self, beside: NodeId | None = None) -> Iterator[TreeNode]:
        """Every node below the tip, parents before children, first candidates first. With `beside`, a child of the tip,
        only those that are neither that node nor below it."""
        queue = [child for child in self.tip.children if child != beside]
        while queue:
            node = self._nodes[queue.pop(0)]
            yield node
            queue.extend(node.children)

    def since(self, latest: NodeId) -> Iterable[TreeNode]:
        """The nodes that were added after `latest`, in that order."""
        younger = itertools.takewhile(lambda node: node.id > latest, reversed(self._nodes.values()))
        return reversed(list(younger))

    def path_back(self) -> Iterator[TreeNode]:
        """The committed nodes, last to first."""
        return (self._nodes[node] for node in reversed(self._path))

    def above_tip(self, tokens: int) -> NodeId:
        """The committed node so many tokens above the tip; the root beyond the first."""
        return self._path[-1 - tokens] if tokens < len(self._path) else ROOT

    def contexts(self, nodes: Sequence[NodeId]) -> Contexts:
        """What leads to each of `nodes`, which are the tip or hang below it."""
        return Contexts(tuple(self._tokens), tuple(map(self._tail, nodes)))

    def _tail(self, node: NodeId) -> tuple[TokenId, ...]:
        """The drafts from the tip to `node`."""
        tail: list[TokenId] = []
        below = self._nodes[node]
        while below.position > self.tip.position:
            tail.append(below.token)
            below = self._nodes[below.parent]
        return tuple(reversed(tail))

    def _forget_children(self, node: NodeId) -> None:
        self._forget(self._nodes[node].children)
        self._nodes[node].children = []

    def _forget(self, nodes: Sequence[NodeId]) -> None:
        doomed = list(nodes)
        while doomed:
            node = self._nodes.pop(doomed.pop(), None)
            if node is not None:
                doomed.extend(node.children)
