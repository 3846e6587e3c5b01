"""Attention over a tree of tokens: each node sees the slots of its ancestors, and of them what a layer's window leaves.

transformers lets an attention function be registered by name, and builds no mask of its own for a name that it does not
know. So masks have one source, this file, and no family's rules about masks matter: a layer passes its window
(`sliding_window`), and gets the mask for it.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

NAME = "dsd_tree"

FOLDED_ROWS = 512
"""Up to here a mask repeated for each head of a group costs less than reading the keys once for each of them."""


class TreeMask:
    """The additive masks of one forward, one for each window, made when first asked for."""

    def __init__(
        self,
        visible: NDArray[np.bool_],  # [nodes, used]
        positions: NDArray[np.int64],  # [nodes]
        slot_positions: NDArray[np.int64],  # [used]
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._visible = visible
        self._positions = positions
        self._slot_positions = slot_positions
        self._dtype = dtype
        self._device = device
        self._deepest = int(positions.max())
        self._masks: dict[tuple[int | None, int], torch.Tensor | None] = {}

    def within(self, window: int | None, repeats: int = 1) -> torch.Tensor | None:
        """The mask [repeats * nodes, used] of layers that look back less than `window`; None if all is visible."""
        if window is not None and self._deepest < window:
            window = None
        if (window, repeats) not in self._masks:
            self._masks[window, repeats] = self._additive(self._allowed(window), repeats)
        return self._masks[window, repeats]

    def _allowed(self, window: int | None) -> NDArray[np.bool_]:
        if window is None:
            return self._visible
        distances = self._positions[:, None] - self._slot_positions
        return self._visible & (distances < window)

    def _additive(self, allowed: NDArray[np.bool_], repeats: int) -> torch.Tensor | None:
        if allowed.all():
            return None
        mask = torch.zeros(allowed.shape, dtype=self._dtype).masked_fill_(torch.from_numpy(~allowed), -torch.inf)
        return mask.repeat(repeats, 1).to(self._device)


def tree_attention(
    module: "nn.Module",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree_mask: TreeMask,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from [1, heads, nodes, dim] to [1, key heads, used, dim]; returns [1, nodes, heads, dim].

    Heads that share keys (grouped-query attention) never get copies of them, unlike in transformers' own function.
    """
    heads, nodes = query.shape[1:3]
    key_heads = key.shape[1]
    group = heads // key_heads
    if group * nodes <= FOLDED_ROWS:
        mask = tree_mask.within(sliding_window, group)
        query = query.reshape(1, key_heads, group * nodes, -1)
    else:
        mask = tree_mask.within(sliding_window)
        query = query.reshape(key_heads, group, nodes, -1)
        key, value = (shared[0].unsqueeze(1).expand(-1, group, -1, -1) for shared in (key, value))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.reshape(1, heads, nodes, -1).transpose(1, 2), None


def register() -> None:
    """Make `tree_attention` known to transformers under NAME. Registering twice is harmless."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)
