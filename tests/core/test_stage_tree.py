"""The stage's tree against a naive model that keeps every path in full and forgets by looking at all of them."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.stage_tree import StageTree
from dsd_core.errors import OutOfCapacity, ProtocolError


def frame(keep: int, *nodes: tuple[int, int]) -> Frame:
    """A frame of (id, parent) pairs; the token is ten times the id."""
    return Frame(tuple(FrameNode(node, parent, 10 * node) for node, parent in nodes), keep)


def chain(first: int, last: int, *, parent: int) -> list[tuple[int, int]]:
    return [(node, parent if node == first else node - 1) for node in range(first, last + 1)]


class NaiveTree:
    """Paths by node, slots by node. Says what register() must raise, and what place() must answer."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.paths: dict[int, tuple[int, ...]] = {0: ()}
        self.slots: dict[int, int] = {}
        self.highest = 0

    def register(self, arriving: Frame) -> type[Exception] | None:
        for node in arriving.nodes:
            if node.id <= self.highest:
                return ProtocolError
            if node.parent not in self.paths and node.parent >= node.id:
                return ProtocolError
            self.highest = node.id
            if node.parent in self.paths:
                self.paths[node.id] = (*self.paths[node.parent], node.id)
        if arriving.keep not in self.paths:
            return ProtocolError
        kept = self.paths[arriving.keep]
        self.paths = {node: path for node, path in self.paths.items() if path[: len(kept)] == kept[: len(path)]}
        self.slots = {node: slot for node, slot in self.slots.items() if node in self.paths}
        return OutOfCapacity if len(self.paths) - 1 > self.capacity else None

    def place(self, computed: Frame) -> list[int]:
        alive = [node.id for node in computed.nodes if node.id in self.paths]
        for node in alive:
            self.slots[node] = min(set(range(self.capacity)) - set(self.slots.values()))
        return alive


def check_placement(tree: StageTree, model: NaiveTree, computed: Frame) -> None:
    placement = tree.place(computed)
    alive = model.place(computed)
    assert [computed.nodes[row].id for row in placement.rows] == alive
    assert placement.slots.tolist() == [model.slots[node] for node in alive]
    assert placement.positions.tolist() == [len(model.paths[node]) - 1 for node in alive]
    used = max(model.slots.values(), default=-1) + 1
    assert placement.visible.shape == (len(alive), used)
    assert placement.visible.dtype == bool
    for node, row in zip(alive, placement.visible, strict=True):
        assert sorted(np.flatnonzero(row)) == sorted(model.slots[above] for above in model.paths[node])
        assert tree.path(node).tolist() == [10 * above for above in model.paths[node]]
    for node, slot in model.slots.items():
        assert placement.slot_positions[slot] == len(model.paths[node]) - 1
    assert tree.used == used == placement.slot_positions.size
    assert tree.held == len(model.slots) <= tree.capacity


def a_frame(chance: random.Random, model: NaiveTree) -> Frame:
    """Mostly lawful: parents that are alive, forgotten or in the frame; a keep that moves down, up, across or not."""
    following = model.highest + 1
    nodes: list[tuple[int, int]] = []
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        parents = [*model.paths, *(node for node, _ in nodes)]
        if chance.random() < 0.2:
            parents.append(chance.randrange(following))
        deep = max(parents, key=lambda node: len(model.paths.get(node, ())))
        nodes.append((following, chance.choice([deep, nodes[-1][0] if nodes else deep, chance.choice(parents)])))
        following += chance.choice([1, 1, 1, 3])
    known = [*model.paths, *(node for node, parent in nodes if parent in model.paths)]
    return frame(chance.choice([0, max(known), chance.choice(known), chance.choice(known)]), *nodes)


@pytest.mark.parametrize("block", range(4))
def test_it_equals_the_naive_model(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        chance = random.Random(seed)
        tree, model = StageTree(capacity := chance.choice([6, 20, 200])), NaiveTree(capacity)
        queue: list[Frame] = []
        for _ in range(60):
            arriving = a_frame(chance, model)
            raised = model.register(arriving)
            if raised is not None:
                with pytest.raises(raised):
                    tree.register(arriving)
                break
            tree.register(arriving)
            queue.append(arriving)
            while queue and chance.random() < 0.6:
                check_placement(tree, model, queue.pop(0))


ids = st.integers(-2, 12)
garbage = st.builds(
    Frame,
    st.lists(st.builds(FrameNode, ids, ids, st.integers(0, 9), st.booleans()), max_size=4).map(tuple),
    ids,
)


@settings(max_examples=300)
@given(st.lists(garbage, max_size=6), st.integers(0, 6))
def test_garbage_is_refused_by_name_and_never_in_another_way(frames: list[Frame], capacity: int) -> None:
    tree, model = StageTree(capacity), NaiveTree(capacity)
    for arriving in frames:
        raised = model.register(arriving)
        if raised is not None:
            with pytest.raises(raised):
                tree.register(arriving)
            return
        tree.register(arriving)
        tree.place(arriving)
        model.place(arriving)
        assert tree.held == len(model.slots)


def test_a_line_is_contiguous_whatever_is_rejected() -> None:
    tree = StageTree(80)
    following, tip = 1, 0
    for rejected in (3, 0, 5, 2, 1, 4) * 4:
        drafts = chain(following, following + 5, parent=tip)
        arriving = frame(following, *drafts)
        tree.register(arriving)
        placement = tree.place(arriving)
        assert placement.slots.tolist() == placement.positions.tolist()
        tip = following + (5 - rejected) // 3
        following += 6
    assert tree.used == tree.held


def test_siblings_do_not_see_each_other() -> None:
    tree = StageTree(8)
    arriving = frame(1, (1, 0), (2, 1), (3, 1), (4, 2), (5, 3))
    tree.register(arriving)
    placement = tree.place(arriving)
    assert placement.positions.tolist() == [0, 1, 1, 2, 2]
    assert placement.visible.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 1, 0, 1],
    ]


def test_queued_nodes_that_hang_off_a_freed_one_are_skipped() -> None:
    tree = StageTree(8)
    first, rejected, corrected = frame(1, (1, 0), (2, 1)), frame(1, (3, 2), (4, 3)), frame(5, (5, 1))
    tree.register(first)
    tree.place(first)
    tree.register(rejected)
    tree.register(corrected)
    assert tree.place(rejected).rows.size == 0
    assert tree.place(corrected).slots.tolist() == [1]


def test_what_hangs_off_a_dropped_node_is_dropped() -> None:
    tree = StageTree(8)
    tree.register(frame(3, (1, 0), (2, 1), (3, 1)))
    stale = frame(3, (4, 2), (5, 4))
    tree.register(stale)
    assert tree.place(stale).rows.size == 0


def test_a_branch_beside_an_unmoved_keep_is_freed() -> None:
    """The second law holds for a frame that arrives after its `keep` has been applied once."""
    tree = StageTree(8)
    tree.register(frame(2, (1, 0), (2, 1)))
    beside = frame(2, (3, 1))
    tree.register(beside)
    assert tree.place(beside).rows.size == 0


def test_keep_goes_back_to_an_ancestor_and_onto_another_branch() -> None:
    tree = StageTree(8)
    old = frame(3, *chain(1, 3, parent=0))
    tree.register(old)
    tree.place(old)
    tree.register(frame(1))
    assert tree.held == 3, "what was kept is a descendant now"
    branch = frame(1, *chain(4, 5, parent=1))
    tree.register(branch)
    tree.place(branch)
    assert tree.held == 5
    tree.register(frame(4))
    assert tree.held == 3
    assert tree.path(5).tolist() == [10, 40, 50]
    with pytest.raises(ProtocolError, match="freed"):
        tree.register(frame(3))


@pytest.mark.parametrize(
    ("arriving", "message"),
    [
        (frame(0, (2, 0)), "node 2 comes after node 2; the ids of a session only grow"),
        (frame(0, (1, 0)), "node 1 comes after node 2"),
        (frame(0, (3, 0), (3, 0)), "node 3 comes after node 3"),
        (frame(0, (3, 3)), "node 3 names a parent, 3, that has not been sent"),
        (frame(0, (3, 4), (4, 0)), "node 3 names a parent, 4, that has not been sent"),
        (frame(3), "keep names node 3, which has not been sent"),
        (frame(1), "keep names node 1, which an earlier keep had freed"),
        (frame(3, (3, 1)), "keep names node 3, which an earlier keep had freed"),
    ],
)
def test_the_peers_mistakes_are_named(arriving: Frame, message: str) -> None:
    tree = StageTree(8)
    tree.register(frame(2, (1, 0), (2, 0)))
    with pytest.raises(ProtocolError, match=message):
        tree.register(arriving)


def test_no_more_is_held_than_was_reserved() -> None:
    tree = StageTree(3)
    full = frame(0, *chain(1, 3, parent=0))
    tree.register(full)
    assert tree.place(full).slots.tolist() == [0, 1, 2]
    with pytest.raises(OutOfCapacity, match="reserved 3 positions"):
        tree.register(frame(0, (4, 3)))


def test_what_a_keep_frees_makes_room_for_the_frame_that_brings_it() -> None:
    tree = StageTree(3)
    full = frame(1, *chain(1, 3, parent=0))
    tree.register(full)
    tree.place(full)
    corrected = frame(4, (4, 1), (5, 4))
    tree.register(corrected)
    assert tree.place(corrected).slots.tolist() == [1, 2]


def test_a_frame_of_nothing_is_lawful() -> None:
    tree = StageTree(3)
    tree.register(frame(0))
    placement = tree.place(frame(0))
    assert placement.visible.shape == (0, 0)
    assert tree.used == tree.held == 0


def test_the_next_stage_hears_of_a_keep_even_if_the_frames_own_is_gone_by_now() -> None:
    """Else it would hold what this stage has freed. It is told what is committed of what it knows."""
    tree = StageTree(8)
    first, rewound, later = frame(2, (1, 0), (2, 1)), frame(4, (3, 0), (4, 3)), frame(5, (5, 3))
    tree.register(first)
    assert tree.place(first).keep == 2
    tree.register(rewound)
    tree.register(later)
    placement = tree.place(rewound)
    assert placement.rows.tolist() == [0]
    assert placement.keep == 3
    assert tree.place(later).keep == 5
