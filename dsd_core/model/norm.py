"""Root-mean-square norms in four operations instead of eight, where they say the same.

    x / sqrt(mean(x^2) + eps) * w  =  x / hypot(|x|, sqrt(n eps)) * (sqrt(n) w)
"""

import math
from typing import Any

import torch
from torch import nn

CLOSE = 2e-6
"""How far two ways of rounding may be apart, relative to a number."""


class FastNorm(nn.Module):
    """See above. For float32, where no rounding in between is part of the norm."""

    def __init__(self, norm: Any, epsilon: float) -> None:
        super().__init__()
        count = norm.weight.numel()
        self.weight = norm.weight
        self._scaled: torch.Tensor = norm.weight.detach() * math.sqrt(count)
        self._floor = torch.tensor(math.sqrt(count * epsilon), device=norm.weight.device)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return rows / torch.hypot(lengths, self._floor) * self._scaled


def fast_norm(norm: nn.Module) -> nn.Module:
    """What to call in place of a norm: itself, unless ours says the same of rows large, small and zero."""
    weight, epsilon = getattr(norm, "weight", None), _epsilon(norm)
    if not isinstance(weight, torch.Tensor) or weight.dtype != torch.float32 or epsilon is None:
        return norm
    rows, fast = _trial_rows(weight), FastNorm(norm, epsilon)
    with torch.no_grad():
        return fast if torch.allclose(fast(rows), norm(rows), rtol=CLOSE, atol=0.0) else norm


def _trial_rows(weight: torch.Tensor) -> torch.Tensor:
    rows = torch.linspace(-4, 4, 7 * weight.numel(), device=weight.device).view(7, -1).sin()
    return rows * torch.tensor([1.0, 1e-4, 1e4, 0.0, 3.0, 1e-2, 30.0], device=weight.device)[:, None]


def _epsilon(norm: nn.Module) -> float | None:
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return epsilon if isinstance(epsilon, float) else None
