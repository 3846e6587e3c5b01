"""Rotary angles looked up instead of computed: they depend on the position alone."""

from typing import Any

import torch
from torch import nn

from dsd_core.model.families import fixed_positions

ROWS = 1024
"""A table grows by so many positions, far enough for the deepest that was asked for."""

Table = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, [positions, dim] each."""


class RotaryTable(nn.Module):
    """In place of a rotary embedding: what it says of position i, from a table that it has filled itself."""

    def __init__(self, rotary: nn.Module) -> None:
        super().__init__()
        self.original = rotary
        self._tables: dict[tuple[Any, ...], Table] = {}

    @staticmethod
    def suits(rotary: nn.Module) -> bool:
        """Not where angles change with the length, nor on a GPU, where to learn the deepest position is to wait for it."""
        config = getattr(rotary, "config", None)
        on_cpu = all(buffer.device.type == "cpu" for buffer in rotary.buffers())
        return config is not None and on_cpu and fixed_positions(config) is None

    def forward(self, rows: torch.Tensor, position_ids: torch.Tensor, *kind: Any) -> Table:
        """Two of [1, nodes, dim] for [1, nodes] positions; `kind` tells kinds of layers apart in some families."""
        table = self._tables.get(kind)
        deepest = int(position_ids.max())
        if table is None or deepest >= len(table[0]):
            table = self._tables[kind] = self._filled(rows, (deepest // ROWS + 1) * ROWS, kind)
        cosines, sines = table
        return nn.functional.embedding(position_ids, cosines), nn.functional.embedding(position_ids, sines)

    def _filled(self, rows: torch.Tensor, positions: int, kind: tuple[Any, ...]) -> Table:
        cosines, sines = self.original(rows, torch.arange(positions, device=rows.device)[None], *kind)
        return cosines[0], sines[0]
