"""The end of a model, for the rows that somebody asks for.

Most rows of a prompt are read for their keys and values alone. In the last layer nothing that comes after those serves another
row, and most of it is the MLP: three quarters of the layer's products in the embedded target, and about as much in others.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

FEW = 0.5
"""Of a frame's rows. Above it, taking them out and putting them back is not worth it."""


class AskedRows(nn.Module):
    """A last layer's MLP."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp: Any = mlp
        self._rows: list[int] | None = None

    def ask(self, rows: Sequence[int] | None, *, of: int) -> None:
        """For these rows of the next forward, which has `of`; None, for all."""
        self._rows = list(rows) if rows is not None and len(rows) <= of * FEW else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[1, nodes, hidden_size] to the same; zeros for rows that nobody asks for, or what they would have been."""
        if self._rows is None:
            return self.mlp(hidden)  # type: ignore[no-any-return]
        output = torch.zeros_like(hidden)
        if self._rows:
            output[:, self._rows] = self.mlp(hidden[:, self._rows])
        return output
