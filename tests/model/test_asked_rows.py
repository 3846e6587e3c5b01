"""A last layer's MLP computes what is asked for."""

import torch
from torch import nn

from dsd_core.model.asked_rows import AskedRows

HIDDEN = torch.arange(12.0).reshape(1, 4, 3)


class Doubling(nn.Module):
    """Notes how many rows it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.rows.append(hidden.shape[1])
        return hidden * 2


def test_few_rows_are_computed_alone() -> None:
    mlp = AskedRows(doubling := Doubling())
    mlp.ask([1, 3], of=4)
    output = mlp(HIDDEN)
    assert doubling.rows == [2]
    assert torch.equal(output[:, [1, 3]], 2 * HIDDEN[:, [1, 3]])
    assert not output[:, [0, 2]].any()


def test_where_nobody_asks_nothing_is_computed() -> None:
    mlp = AskedRows(doubling := Doubling())
    mlp.ask([], of=4)
    assert not mlp(HIDDEN).any()
    assert doubling.rows == []


def test_many_rows_and_unnamed_ones_are_computed_with_all() -> None:
    mlp = AskedRows(doubling := Doubling())
    for rows in ([0, 1, 3], None):
        mlp.ask(rows, of=4)
        assert torch.equal(mlp(HIDDEN), 2 * HIDDEN)
    assert doubling.rows == [4, 4]
