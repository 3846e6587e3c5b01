"""Muon: momentum whose matrices are orthogonalised before they are applied (Jordan et al., 2024)."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

# The quintic of the Newton-Schulz iteration that brings singular values near 1 in five steps.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NUM_ITERATIONS: Final = 5


class Muon:
    """Steps matrices of equal shape together. Set `lr` before each `step`; gradients are cleared by the caller."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], momentum: float = 0.95, decay: float = 0.01) -> None:
        self.lr, self.momentum, self.decay = 0.0, momentum, decay
        self.groups: dict[torch.Size, list[torch.nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            self.groups[matrix.shape].append(matrix)
        self.velocity = [torch.zeros(len(group), *shape) for shape, group in self.groups.items()]

    @torch.no_grad()
    def step(self) -> None:
        for velocity, (shape, group) in zip(self.velocity, self.groups.items(), strict=True):
            gradient = torch.stack([_gradient(matrix) for matrix in group])  # [matrices, out, in]
            velocity.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(velocity, self.momentum))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for matrix, direction in zip(group, update, strict=True):
                matrix.mul_(1 - self.lr * self.decay).add_(direction, alpha=-self.lr * scale)


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values between 0.7 and 1.2."""
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * (gram @ gram)) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result


def _gradient(matrix: torch.nn.Parameter) -> Tensor:
    assert matrix.grad is not None, "step() comes after backward()"
    return matrix.grad
