import pytest

from dsd_core.decoding.frames import Frame, FrameNode
from dsd_core.decoding.ids import ROOT, LaneId
from dsd_core.decoding.lane import Lane
from dsd_core.decoding.round_clock import RoundClock
from dsd_core.decoding.tree import TokenTree
from dsd_core.errors import ProtocolError


def committed(*tokens: int) -> TokenTree:
    tree = TokenTree()
    for token in tokens:
        tree.commit(tree.add(tree.tip.id, token))
    return tree


def a_lane() -> Lane:
    return Lane(LaneId(1), RoundClock(10.0))


def send_path(lane: Lane, tree: TokenTree) -> Frame:
    return lane.frame([(node, False) for node in lane.missing_path(tree)], keep=tree.tip)


def test_a_lane_numbers_what_it_is_sent() -> None:
    tree = committed(5, 6)
    lane = a_lane()
    assert [node.token for node in lane.missing_path(tree)] == [5, 6]
    assert send_path(lane, tree) == Frame((FrameNode(1, 0, 5, False), FrameNode(2, 1, 6, False)), keep=2)
    assert lane.missing_path(tree) == []


def test_its_drafts_are_those_of_the_tree_that_it_has_seen() -> None:
    tree = committed(5, 6)
    lane, (right, wrong) = a_lane(), [tree.add(2, token) for token in (7, 8)]
    assert list(lane.drafts(tree)) == [], "it has not seen the tip"
    send_path(lane, tree)
    lane.frame([(right, True), (wrong, True)], keep=tree.tip)
    below = tree.add(right.id, 9)
    assert set(lane.drafts(tree)) == {right.id, wrong.id}
    lane.frame([(below, True)], keep=tree.tip)
    tree.commit(right)
    assert list(lane.drafts(tree)) == [below.id], "what was beside the tip is gone"
    tree.rewind(1)
    assert list(lane.drafts(tree)) == []


def test_numbers_grow_though_the_trees_own_do_not_arrive_in_order() -> None:
    """A second lane is sent its own subset: the tree's node 4 before its node 3."""
    tree = committed(5, 6)
    older, newer = tree.add(2, 7), tree.add(2, 8)
    lane = a_lane()
    send_path(lane, tree)
    assert lane.frame([(newer, True)], keep=tree.tip).nodes == (FrameNode(3, 2, 8, True),)
    assert lane.frame([(older, True)], keep=tree.tip).nodes == (FrameNode(4, 2, 7, True),)
    assert lane.node(3) == newer.id
    assert lane.node(4) == older.id


def test_only_the_end_of_the_path_is_missing_after_a_rewind() -> None:
    tree = committed(5, 6, 7)
    lane = a_lane()
    send_path(lane, tree)
    tree.rewind(1)
    tree.commit(tree.add(tree.tip.id, 8))
    assert [node.token for node in lane.missing_path(tree)] == [8]
    assert send_path(lane, tree) == Frame((FrameNode(4, 1, 8, False),), keep=4)


def test_a_verdict_for_what_was_never_sent_is_the_peers_fault() -> None:
    with pytest.raises(ProtocolError, match="node 1, which was never sent"):
        a_lane().node(1)


def test_dropped_nodes_are_forgotten_once_they_are_most() -> None:
    tree = committed(5)
    lane = a_lane()
    send_path(lane, tree)
    dropped = [tree.add(1, token) for token in range(100)]
    lane.frame([(node, True) for node in dropped], keep=tree.tip)
    kept = dropped[50]
    tree.commit(kept)
    lane.forget_dropped(tree)
    assert lane.node(2 + 49) is None
    assert not lane.has_seen(dropped[0].id)
    assert lane.node(2 + 50) == kept.id
    assert lane.has_seen(kept.id)
    assert lane.has_seen(ROOT)
    assert lane.node(1) == 1
    assert lane.frame([(tree.add(kept.id, 7), True)], keep=kept) == Frame((FrameNode(102, 52, 7, True),), keep=52)


def test_a_few_dropped_nodes_stay_known() -> None:
    tree = committed(5)
    lane = a_lane()
    send_path(lane, tree)
    rejected = tree.add(1, 8)
    lane.frame([(rejected, True)], keep=tree.tip)
    tree.commit(tree.add(1, 9))
    lane.forget_dropped(tree)
    assert lane.node(2) == rejected.id
