"""Masks by window, and attention without copies, against the plain formula."""

import numpy as np
import pytest
import torch

from dsd_core.model.attention import FOLDED_ROWS, TreeMask, tree_attention
from tests.model.conftest import assert_same_scores

CPU = torch.device("cpu")


def tree_mask(visible: list[list[int]], positions: list[int], slot_positions: list[int]) -> TreeMask:
    rows = np.array(visible, dtype=bool)
    return TreeMask(rows, np.array(positions), np.array(slot_positions), torch.float32, CPU)


def test_a_mask_hides_what_is_not_an_ancestor() -> None:
    mask = tree_mask([[1, 0, 1]], [1], [0, 1, 1]).within(None)
    assert mask is not None
    assert mask.tolist() == [[0.0, -torch.inf, 0.0]]


def test_a_window_counts_depth_along_the_branch() -> None:
    masks = tree_mask([[1, 1, 0, 1]], [2], [0, 1, 5, 2])
    mask = masks.within(2)
    assert mask is not None
    assert mask.tolist() == [[-torch.inf, 0.0, -torch.inf, 0.0]]
    assert masks.within(3) is masks.within(None)


def test_no_mask_where_all_is_visible() -> None:
    assert tree_mask([[1, 1]], [1], [0, 1]).within(None) is None
    assert tree_mask([[1, 1]], [1], [0, 1]).within(1) is not None


def test_a_mask_is_made_once_and_repeated_for_the_heads_of_a_group() -> None:
    masks = tree_mask([[1, 0], [1, 1]], [0, 1], [0, 1])
    mask = masks.within(None, 3)
    assert mask is not None
    assert mask.shape == (6, 2)
    assert masks.within(None, 3) is mask


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("nodes", [1, 5, FOLDED_ROWS])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_the_plain_formula(groups: int, nodes: int, masked: bool) -> None:
    torch.manual_seed(0)
    key_heads, dim, used = 2, 8, nodes + 3
    query = torch.randn(1, nodes, key_heads * groups, dim).transpose(1, 2)
    keys, values = torch.randn(2, 1, key_heads, used + 4, dim).narrow(3, 0, used)
    visible = torch.rand(nodes, used) < 0.5 if masked else torch.ones(nodes, used, dtype=torch.bool)
    visible[:, 0] = True
    masks = TreeMask(visible.numpy(), np.zeros(nodes, dtype=np.int64), np.zeros(used, dtype=np.int64), torch.float32, CPU)
    output, _ = tree_attention(torch.nn.Identity(), query, keys, values, None, tree_mask=masks, scaling=0.3)

    scores = query @ keys.repeat_interleave(groups, 1).transpose(2, 3) * 0.3
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    expected = (weights @ values.repeat_interleave(groups, 1)).transpose(1, 2)
    assert_same_scores(output, expected)
