"""Which tokens a drafter has keys and values of: a stage's tree, found by its tokens instead of by numbers.

    trunk (committed) -> end of the trunk -> drafts, in branches

When the trunk grows, what does not hang off its end is freed (`keep`, as at a stage). What it loses when it is rewound
becomes a branch like others, found again or freed by the next `keep`.
"""

from collections.abc import Iterator, Sequence

from dsd_core.decoding.drafting.belief import Belief
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.ids import ROOT, NodeId, TokenId
from dsd_core.decoding.prefix import common_prefix
from dsd_core.decoding.stage_tree import Placement, StageTree

CHUNK = 512


class DraftTree:
    """One session's drafts, in `capacity` slots and up to `positions` deep. Call `enter`, then compute every frame of
    `frames` and `remember` what its marked nodes led to; then `beliefs` are there for all contexts that were entered."""

    def __init__(self, capacity: int, positions: int) -> None:
        self.stage = StageTree(capacity)
        self._positions = positions
        self._trunk: list[TokenId] = []
        self._path: list[NodeId] = [ROOT]
        """The node after each number of the trunk's tokens."""
        self._children: dict[tuple[NodeId, TokenId], NodeId] = {}
        """Below the end of the trunk."""
        self._beliefs: dict[NodeId, Belief] = {}
        self._unread: dict[NodeId, tuple[NodeId, TokenId]] = {}
        """Nodes to be computed, with their parents and tokens."""
        self._ends: list[NodeId | None] = []
        self._next_id = NodeId(1)

    def enter(self, contexts: Contexts) -> list[tuple[Belief, TokenId]]:
        """Take note of what to draft after. Returns what was believed of positions that have been decided since, and how."""
        if not 0 < len(contexts.trunk) <= min(self.stage.capacity, self._positions):
            self._ends = [None] * len(contexts.tails)
            return []
        decided = self._follow(contexts.trunk, read_end=() in contexts.tails)
        self._ends = [self._end_of(tail) for tail in contexts.tails]
        return decided

    def frames(self) -> Iterator[tuple[Frame, Placement]]:
        """What has to be computed, one after the other. Marked are the nodes where a context ends."""
        nodes = [FrameNode(node, parent, token, node in self._ends) for node, (parent, token) in self._unread.items()]
        self._unread = {}
        for start in range(0, len(nodes), CHUNK):
            part = tuple(nodes[start : start + CHUNK])
            frame = Frame(part, self._keep(part))
            self.stage.register(frame)
            yield frame, self.stage.place(frame)

    def remember(self, node: NodeId, belief: Belief) -> None:
        """Asked again, it need not be computed again."""
        self._beliefs[node] = belief

    def beliefs(self) -> Sequence[Belief | None]:
        """One for each context that was entered; None where the reservation has no room for it."""
        return [None if end is None else self._beliefs[end] for end in self._ends]

    # -- the trunk -----------------------------------------------------------------------------------------------------

    def _follow(self, trunk: Sequence[TokenId], *, read_end: bool) -> list[tuple[Belief, TokenId]]:
        common = common_prefix(self._trunk, trunk)
        self._rewind(common)
        decided = self._grow(trunk)
        if common < len(trunk):
            self._forget_freed()
        if read_end and self._path[-1] not in self._unread and self._path[-1] not in self._beliefs:
            self._read_end_again()
        return decided

    def _rewind(self, length: int) -> None:
        for depth in range(length, len(self._trunk)):
            self._children[self._path[depth], self._trunk[depth]] = self._path[depth + 1]
        if length < len(self._trunk):
            del self._trunk[length:], self._path[length + 1 :]
            self.stage.register(Frame((), self._path[-1]))

    def _grow(self, trunk: Sequence[TokenId]) -> list[tuple[Belief, TokenId]]:
        decided = []
        for token in trunk[len(self._trunk) :]:
            end = self._path[-1]
            if end in self._beliefs:
                decided.append((self._beliefs[end], token))
            child = self._children.get((end, token))
            self._trunk.append(token)
            self._path.append(self._add(end, token) if child is None else child)
        return decided

    def _forget_freed(self) -> None:
        """All but what hangs off the trunk's end. Where that is new, nothing does."""
        end = self._path[-1]
        if end in self._unread:
            self._children = {}
        else:
            self.stage.register(Frame((), end))
            self._children = {place: node for place, node in self._children.items() if node in self.stage and place[0] >= end}
        self._beliefs = {node: self._beliefs[node] for node in (end, *self._children.values()) if node in self._beliefs}

    def _read_end_again(self) -> None:
        """Of a node that was read on the way to others nothing is known but its keys and values."""
        self._path.pop()
        self._path.append(self._add(self._path[-1], self._trunk[-1]))
        self._children = {}

    # -- below it ------------------------------------------------------------------------------------------------------

    def _end_of(self, tail: tuple[TokenId, ...]) -> NodeId | None:
        node, known = self._path[-1], 0
        while known < len(tail) and (child := self._children.get((node, tail[known]))) is not None:
            parent, node, known = node, child, known + 1
        if known == len(tail):
            if node in self._beliefs or node in self._unread:
                return node
            node, known = parent, known - 1
        if len(tail) - known > self._room() or len(self._trunk) + len(tail) > self._positions:
            return None
        for token in tail[known:]:
            self._children[node, token] = node = self._add(node, token)
        return node

    def _add(self, parent: NodeId, token: TokenId) -> NodeId:
        node = self._next_id
        self._next_id = NodeId(node + 1)
        self._unread[node] = parent, token
        return node

    def _room(self) -> int:
        """Slots that are left once the unread nodes have theirs. A new end of the trunk frees all that is no part of it."""
        if self._path[-1] in self._unread:
            return self.stage.capacity - len(self._trunk) - sum(node > self._path[-1] for node in self._unread)
        return self.stage.capacity - self.stage.held - len(self._unread)

    def _keep(self, part: Sequence[FrameNode]) -> NodeId:
        """The deepest node of the trunk that the stage's tree knows once it has these."""
        end = self._path[-1]
        return max((node.id for node in part if node.id <= end), default=end)
