"""What a drafter remembers: never the wrong tokens, never more than it reserved, and no longer than it is of use."""

from random import Random

import pytest

from dsd_core.decoding.drafting.belief import Belief
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.drafting.draft_tree import CHUNK, DraftTree
from dsd_core.decoding.frames import Frame
from dsd_core.decoding.stage_tree import Placement

Path = tuple[int, ...]


def belief_of(path: Path) -> Belief:
    return Belief(list(path), [], [], 0.0, 0.0)  # type: ignore[arg-type]


class Reader:
    """Computes as a model does: what it writes to a slot depends on what it sees in others."""

    def __init__(self, capacity: int, positions: int | None = None) -> None:
        self.tree = DraftTree(capacity, positions or capacity)
        self.slots: dict[int, Path] = {}
        self.frames: list[int] = []

    def read(self, trunk: Path, *tails: Path) -> list[Path | None]:
        """For each context the path that its belief is of."""
        self.decided = self.tree.enter(Contexts(trunk, tails))  # type: ignore[arg-type]
        self.frames = []
        for frame, placement in self.tree.frames():
            self.frames.append(len(frame.nodes))
            self._compute(frame, placement)
        return [tuple(belief.tokens) if belief else None for belief in self.tree.beliefs()]

    def _compute(self, frame: Frame, placement: Placement) -> None:
        assert placement.rows.size == len(frame.nodes), "no node is dropped"
        for row, node in enumerate(frame.nodes):
            seen = [int(slot) for slot in placement.visible[row].nonzero()[0] if slot != placement.slots[row]]
            above = sorted((self.slots[slot] for slot in seen), key=len)
            path = (*(above[-1] if above else ()), int(node.token))
            assert above == [path[:length] for length in range(1, len(path))], "a node sees its ancestors, all of them, alone"
            assert placement.positions[row] == len(path) - 1
            self.slots[int(placement.slots[row])] = path
            if node.wants_verdict:
                self.tree.remember(node.id, belief_of(path))


def test_what_was_read_is_not_read_again() -> None:
    reader = Reader(100)
    assert reader.read((1, 2, 3), ()) == [(1, 2, 3)]
    assert reader.frames == [3]
    assert reader.read((1, 2, 3), (4,), (5,), (4, 6)) == [(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 4, 6)]
    assert reader.frames == [3], "in one frame, the shared token once"
    assert reader.read((1, 2, 3), (5,), ()) == [(1, 2, 3, 5), (1, 2, 3)]
    assert reader.frames == []
    assert reader.read((1, 2, 3, 4, 6), (), (7,)) == [(1, 2, 3, 4, 6), (1, 2, 3, 4, 6, 7)]
    assert reader.frames == [1]


def test_dead_branches_are_freed_when_the_trunk_moves() -> None:
    reader = Reader(100)
    reader.read((1, 2), (3,), (4,), (3, 5), (4, 6))
    assert reader.tree.stage.held == 6
    reader.read((1, 2, 3), ())
    assert reader.tree.stage.held == 4
    reader.read((1, 2, 3, 9), ())
    assert reader.tree.stage.held == 4, "the new token takes the slot of the wrong one"


def test_a_rewound_trunk_is_found_again_or_freed() -> None:
    reader = Reader(20)
    reader.read((1, 2, 3, 4), ())
    assert reader.read((1, 2), (3, 4), (3,)) == [(1, 2, 3, 4), (1, 2, 3)]
    assert reader.frames == [1], "what follows 3 alone was never asked"
    assert reader.read((1, 7), ()) == [(1, 7)]
    assert reader.frames == [1]
    assert reader.tree.stage.held == 2
    assert reader.read((8,), ()) == [(8,)]
    assert reader.tree.stage.held == 1


def test_decisions_are_reported_once() -> None:
    reader = Reader(20)
    reader.read((1, 2), (), (3,))
    assert reader.decided == []
    reader.read((1, 2, 3, 4), ())
    assert [(belief.tokens, choice) for belief, choice in reader.decided] == [([1, 2], 3), ([1, 2, 3], 4)]
    reader.read((1, 2, 3, 4), (5,))
    assert reader.decided == []


def test_where_the_reservation_ends_there_is_nothing() -> None:
    reader = Reader(4)
    assert reader.read((1, 2), (3,), (4,), (5,)) == [(1, 2, 3), (1, 2, 4), None]
    assert reader.read((1, 2), (5,)) == [None]
    assert reader.read((1, 2, 3), (5,)) == [(1, 2, 3, 5)], "the trunk has moved, so there is room"
    assert reader.read((1, 2, 3, 5, 6), ()) == [None]
    assert reader.read((1, 2, 3, 5), ()) == [(1, 2, 3, 5)]
    assert reader.read((), ()) == [None]


def test_positions_are_bounded_apart_from_slots() -> None:
    reader = Reader(20, positions=3)
    assert reader.read((1, 2), (3,), (4,), (3, 5)) == [(1, 2, 3), (1, 2, 4), None]
    assert reader.read((1, 2, 3, 4), ()) == [None]


def test_a_long_prompt_is_read_in_parts() -> None:
    reader = Reader(4 * CHUNK)
    long = tuple(range(2 * CHUNK + 10))
    assert reader.read(long, (1,), (2,)) == [(*long, 1), (*long, 2)]
    assert reader.frames == [CHUNK, CHUNK, 12]


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_requests(seed: int) -> None:
    """Trunks that grow, jump and rewind, tails in any order, and little room."""
    chance = Random(seed)
    reader = Reader(chance.choice([12, 20, 60]))
    trunk: list[int] = [0]
    for _ in range(60):
        match chance.randrange(4):
            case 0:
                del trunk[max(1, chance.randrange(len(trunk) + 1)) :]
            case 1 | 2:
                trunk += chance.choices(range(3), k=chance.randrange(4))
        del trunk[14:]
        tails = [tuple(chance.choices(range(3), k=chance.randrange(4))) for _ in range(chance.randint(1, 8))]
        for tail, path in zip(tails, reader.read(tuple(trunk), *tails), strict=True):
            assert path in (None, (*trunk, *tail))
        assert reader.tree.stage.held <= reader.tree.stage.capacity
        read_alone = reader.read(tuple(trunk), ())[0]
        assert read_alone == (tuple(trunk) if len(trunk) <= reader.tree.stage.capacity else None)
