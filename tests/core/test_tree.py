import pytest

from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.frames import Verdict
from dsd_core.decoding.ids import ROOT
from dsd_core.decoding.tree import TokenTree, TreeNode


def committed(*tokens: int) -> TokenTree:
    tree = TokenTree()
    for token in tokens:
        tree.commit(tree.add(tree.tip.id, token))
    return tree


def hang(tree: TokenTree, parent: int, *tokens: int) -> list[TreeNode]:
    nodes: list[TreeNode] = []
    for token in tokens:
        nodes.append(tree.add(nodes[-1].id if nodes else parent, token))
    return nodes


def test_the_empty_tree_is_its_root() -> None:
    tree = TokenTree()
    assert tree.tip.id == ROOT
    assert tree.tip.position == -1
    assert list(tree.tokens) == []
    assert len(tree) == 1
    assert list(tree.drafts()) == list(tree.path_back()) == []
    assert tree.contexts((ROOT,)) == Contexts((), ((),))


def test_nodes_are_numbered_in_growing_order_and_know_their_depth() -> None:
    tree = committed(5, 6)
    one, two = hang(tree, tree.tip.id, 7, 8)
    other = tree.add(tree.tip.id, 9, rank=1, confidence=0.25)
    assert [one.id, two.id, other.id] == [3, 4, 5]
    assert [one.position, two.position, other.position] == [2, 3, 2]
    assert (other.rank, other.confidence) == (1, 0.25)
    assert tree.child(tree.tip.id, 9) is other
    assert tree.child(tree.tip.id, 8) is None
    assert tree.contexts((two.id, 2, other.id)) == Contexts((5, 6), ((7, 8), (), (9,)))


def test_drafts_come_parents_first() -> None:
    tree = committed(5)
    first = hang(tree, tree.tip.id, 1, 2)
    second = hang(tree, tree.tip.id, 3, 4)
    assert [node.id for node in tree.drafts()] == [first[0].id, second[0].id, first[1].id, second[1].id]


def test_a_commit_forgets_the_siblings_and_what_hangs_off_them() -> None:
    tree = committed(5)
    tip = tree.tip
    kept = hang(tree, tip.id, 1, 2)
    dropped = hang(tree, tip.id, 3, 4, 6)
    tree.commit(kept[0])
    assert all(node.id not in tree for node in dropped)
    assert kept[1].id in tree
    assert tip.children == [kept[0].id]
    assert list(tree.tokens) == [5, 1]
    assert [node.token for node in tree.path_back()] == [1, 5]


def test_only_a_child_of_the_tip_can_be_committed() -> None:
    tree = committed(5)
    below = hang(tree, tree.tip.id, 1, 2)[1]
    with pytest.raises(AssertionError, match="in order"):
        tree.commit(below)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_a_rewind_forgets_all_below(length: int) -> None:
    tree = committed(5, 6, 7)
    hang(tree, tree.tip.id, 8, 9)
    tree.tip.expanded = True
    tree.rewind(length)
    assert list(tree.tokens) == [5, 6, 7][:length]
    assert len(tree) == length + 1
    assert tree.tip.position == length - 1
    assert tree.tip.children == []
    assert not tree.tip.expanded
    assert tree.add(tree.tip.id, 1).id == 6, "numbers are not used again"


def test_a_rewound_node_keeps_its_verdict() -> None:
    tree = committed(5, 6)
    verdict = Verdict(1, choice=6, margin=1.0)
    tree[1].verdict = verdict
    tree.rewind(1)
    assert tree.tip.verdict is verdict
