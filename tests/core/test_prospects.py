import random

import pytest

from dsd_core.decoding.lookahead.prospects import Prospects
from dsd_core.decoding.lookahead.reliability import Reliability
from dsd_core.decoding.tree import TokenTree, TreeNode


def a_tree() -> TokenTree:
    tree = TokenTree()
    tree.commit(tree.add(tree.tip.id, 5))
    return tree


def grow(tree: TokenTree, parent: int, *confidences: float) -> list[int]:
    return [tree.add(parent, token, rank=token, confidence=confidence).id for token, confidence in enumerate(confidences)]


def unsent(tree: TokenTree, prospects: Prospects) -> list[tuple[int, float]]:
    """All of them, best first."""
    prospects.refresh()
    found = []
    while (best := prospects.best_unsent(lambda node: node.position <= tree.tip.position)) is not None:
        found.append((best.node.id, best.probability))
        prospects.take_unsent()
    return found


def test_the_likeliest_come_first_and_parents_before_children() -> None:
    chance, tree = random.Random(3), a_tree()
    live = [tree.tip.id]
    for _ in range(60):
        live += grow(tree, chance.choice(live), chance.random(), chance.random())
    prospects = Prospects(tree, Reliability())
    order = unsent(tree, prospects)
    assert {node for node, _ in order} == set(live[1:])
    assert [probability for _, probability in order] == sorted((probability for _, probability in order), reverse=True)
    places = {node: place for place, (node, _) in enumerate(order)}
    assert all(places.get(tree[node].parent, -1) < place for node, place in places.items())


def test_worth_is_relative_to_the_tip_and_moves_with_it() -> None:
    tree = a_tree()
    first, _ = grow(tree, tree.tip.id, 0.5, 0.25)
    below, _ = grow(tree, first, 0.8, 0.1)
    prospects = Prospects(tree, Reliability())
    prospects.refresh()
    tree.commit(tree[first])
    assert unsent(tree, prospects)[0] == (below, pytest.approx(0.8))


def test_when_the_target_says_something_else_all_is_new() -> None:
    tree = a_tree()
    grow(tree, tree.tip.id, 0.5, 0.25)
    prospects = Prospects(tree, Reliability())
    prospects.refresh()
    tree.commit(tree.add(tree.tip.id, 9))
    assert unsent(tree, prospects) == []
    end = prospects.best_end(lambda node: node.expanded)
    assert end is not None
    assert (end.node.id, end.probability) == (tree.tip.id, 1.0)


def test_what_is_done_is_passed_over_for_good() -> None:
    tree = a_tree()
    best, second = grow(tree, tree.tip.id, 0.6, 0.3)
    prospects = Prospects(tree, Reliability())
    prospects.refresh()

    def is_best(node: TreeNode) -> bool:
        return node.id == best

    found = prospects.best_unsent(is_best)
    assert found is not None
    assert found.node.id == second
    assert prospects.waiting == 1


def test_drafts_come_back_when_a_lane_is_lost_with_them() -> None:
    tree = a_tree()
    nodes = grow(tree, tree.tip.id, 0.6, 0.3)
    prospects = Prospects(tree, Reliability())
    assert [node for node, _ in unsent(tree, prospects)] == nodes
    assert unsent(tree, prospects) == []
    prospects.start_anew()
    assert [node for node, _ in unsent(tree, prospects)] == nodes


def test_what_waits_is_worth_the_tokens_that_it_may_turn_out_to_be() -> None:
    """Kept up to date as drafts come, leave and are decided on: the same as a sum over what is there."""
    chance, tree = random.Random(5), a_tree()
    prospects, sent = Prospects(tree, Reliability()), set[int]()

    def is_done(node: TreeNode) -> bool:
        return node.position <= tree.tip.position or node.id in sent

    for _ in range(200):
        live = [tree.tip.id, *(node.id for node in tree.drafts())]
        match chance.randrange(4):
            case 0 | 1:
                grow(tree, chance.choice(live), 0.6 * chance.random(), 0.4 * chance.random())
            case 2 if best := prospects.best_unsent(is_done):
                prospects.take_unsent()
                sent.add(best.node.id)
            case 3 if tree.tip.children:
                tree.commit(tree[chance.choice(tree.tip.children)])
        prospects.refresh()
        waiting = [probability for node, probability in unsent(tree, Prospects(tree, Reliability())) if node not in sent]
        assert prospects.expected(is_done) == pytest.approx(sum(waiting), abs=1e-9)
