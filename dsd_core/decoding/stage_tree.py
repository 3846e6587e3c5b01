"""What one stage remembers of a session's tree: which node sits in which KV slot, and who attends to whom.

    registered (queued) --place--> placed (holds a slot) --keep--> freed
             \\______________________keep______________________________/

Laws:
1. A frame's nodes are registered first, then its `keep` is applied, both at arrival; slots are taken when it is computed.
2. `keep` frees every node that is neither its ancestor nor its descendant. A queued node that hangs off a freed one is skipped.
3. An unknown parent not above the highest id seen is stale, and its child is dropped; above it is a protocol error.
4. The lowest free slot is taken first, so a session that does not branch keeps its keys and values contiguous.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsd_core.decoding.frames import Frame
from dsd_core.decoding.ids import ROOT, NodeId, TokenId
from dsd_core.errors import OutOfCapacity, ProtocolError


@dataclass(slots=True)
class _Node:
    id: NodeId
    parent: NodeId
    token: TokenId
    position: int
    committed: bool = False
    slot: int | None = None
    visible: int = 0
    """Bit set of the slots that this node attends to, its own included. Set when the node is placed."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the nodes of a frame that are still alive go, and what they attend to. `used` slots are in use."""

    rows: NDArray[np.int64]
    """[nodes] which of the frame's nodes are alive."""
    slots: NDArray[np.int64]
    """[nodes] distinct."""
    positions: NDArray[np.int64]
    """[nodes] depth in the tree."""
    visible: NDArray[np.bool_]
    """[nodes, used]"""
    slot_positions: NDArray[np.int64]
    """[used] depth of the node in each slot."""
    keep: NodeId
    """What to tell the next stage: the frame's own keep, or, if that is gone by now, what is committed of what it knows."""


class StageTree:
    """The nodes and slots of one session on one stage. `capacity` slots are promised and never exceeded."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._nodes: dict[NodeId, _Node] = {ROOT: _Node(ROOT, ROOT, TokenId(0), position=-1, committed=True)}
        self._speculative: dict[NodeId, _Node] = {}
        self._highest = ROOT
        self._keep = ROOT
        self._in_use = 0
        self._slot_positions = np.zeros(capacity, dtype=np.int64)

    def __contains__(self, node: NodeId) -> bool:
        """It was registered, and no `keep` has freed it."""
        return node in self._nodes

    @property
    def used(self) -> int:
        """Highest slot in use, plus one."""
        return self._in_use.bit_length()

    @property
    def held(self) -> int:
        """Slots in use."""
        return self._in_use.bit_count()

    def register(self, frame: Frame) -> None:
        """Take note of an arriving frame. Raises ProtocolError or OutOfCapacity, and is then of no further use."""
        for node in frame.nodes:
            self._check_id(node.id)
            self._highest = node.id
            parent = self._nodes.get(node.parent)
            if parent is not None:
                self._add(_Node(node.id, node.parent, node.token, parent.position + 1))
            elif node.parent >= node.id:
                raise ProtocolError(f"node {node.id} names a parent, {node.parent}, that has not been sent")
        self._apply_keep(frame)
        if len(self._nodes) - 1 > self.capacity:
            raise OutOfCapacity(f"the session reserved {self.capacity} positions and needs more; reserve more when opening it")

    def place(self, frame: Frame) -> Placement:
        """Give slots to the nodes of a registered frame that are still alive (none: all were dropped)."""
        rows = [row for row, node in enumerate(frame.nodes) if node.id in self._nodes]
        nodes = [self._nodes[frame.nodes[row].id] for row in rows]
        for node in nodes:
            self._take_slot(node)
        used = self.used
        return Placement(
            rows=np.array(rows, dtype=np.int64),
            slots=np.array([node.slot for node in nodes], dtype=np.int64),
            positions=np.array([node.position for node in nodes], dtype=np.int64),
            visible=_unpack([node.visible for node in nodes], used),
            slot_positions=self._slot_positions[:used].copy(),
            keep=self._keep_of(frame),
        )

    def path(self, node: NodeId) -> NDArray[np.int64]:
        """Token ids from the first to `node`'s own, for penalties on repetition."""
        tokens: list[int] = []
        while node != ROOT:
            tokens.append(self._nodes[node].token)
            node = self._nodes[node].parent
        return np.array(tokens[::-1], dtype=np.int64)

    def _keep_of(self, frame: Frame) -> NodeId:
        latest = max((frame.keep, *(node.id for node in frame.nodes[-1:])))
        node = self._nodes.get(frame.keep, self._nodes[self._keep])
        while node.id > latest:
            node = self._nodes[node.parent]
        return node.id

    def _check_id(self, node: NodeId) -> None:
        if node <= self._highest:
            raise ProtocolError(f"node {node} comes after node {self._highest}; the ids of a session only grow")

    def _add(self, node: _Node) -> None:
        self._nodes[node.id] = node
        self._speculative[node.id] = node

    def _take_slot(self, node: _Node) -> None:
        slot = (~self._in_use & (self._in_use + 1)).bit_length() - 1
        assert slot < self.capacity, "register() admits no more nodes than there are slots"
        node.slot = slot
        node.visible = self._nodes[node.parent].visible | (1 << slot)
        self._in_use |= 1 << slot
        self._slot_positions[slot] = node.position

    def _apply_keep(self, frame: Frame) -> None:
        keep = frame.keep
        if keep not in self._nodes:
            if keep > self._highest:
                raise ProtocolError(f"keep names node {keep}, which has not been sent")
            raise ProtocolError(f"keep names node {keep}, which an earlier keep had freed")
        if keep == self._keep:  # what was there is related to it, so only what has come may not be
            return self._free_unrelated([node.id for node in frame.nodes if node.id in self._speculative])
        self._commit_down_to(keep)
        self._keep = keep
        self._free_unrelated(sorted(self._speculative))

    def _commit_down_to(self, keep: NodeId) -> None:
        """Mark the path to `keep` committed. When it leaves the old path, the old tail is speculative again."""
        node = self._nodes[keep]
        while not node.committed:
            node.committed = True
            self._speculative.pop(node.id)
            node = self._nodes[node.parent]
        fork, tail = node.id, self._nodes[self._keep]
        while tail.id != fork:
            tail.committed = False
            self._speculative[tail.id] = tail
            tail = self._nodes[tail.parent]

    def _free_unrelated(self, speculative: Iterable[NodeId]) -> None:
        """Of these, parents before children, all that do not descend from the kept node."""
        for node_id in speculative:
            node = self._speculative[node_id]
            if node.parent != self._keep and node.parent not in self._speculative:
                self._free(node)

    def _free(self, node: _Node) -> None:
        del self._nodes[node.id], self._speculative[node.id]
        if node.slot is not None:
            self._in_use &= ~(1 << node.slot)


def _unpack(bit_sets: list[int], width: int) -> NDArray[np.bool_]:
    """Bit sets as rows of booleans, [sets, width]."""
    size = (width + 7) // 8
    packed = np.frombuffer(b"".join(bits.to_bytes(size, "little") for bits in bit_sets), dtype=np.uint8)
    return np.unpackbits(packed.reshape(len(bit_sets), size), axis=1, count=width, bitorder="little").view(np.bool_)
