"""The same numbers with less interpreting: for one token, half of a small model's time goes into calling, not computing.

Nothing here knows a family. A module is replaced only where the replacement gives the same bits, and left alone elsewhere.
"""

from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WRAPPERS = {
    "merge_with_config_defaults.<locals>.wrapper",
    "capture_outputs.<locals>.wrapped_fn.<locals>.wrapper",
    "GradientCheckpointingLayer.__init_subclass__.<locals>.forward_with_checkpointing",
}
"""What transformers puts around a forward to read defaults, record outputs and train: a span asks for none of it."""


def take(base: Any) -> Callable[..., Any]:
    """Replace what can be replaced in a base model whose weights have been read. Returns what to call it by."""
    if isinstance(getattr(base, "layers", None), nn.ModuleList):
        base.layers = WholeLayers(base.layers)
    for module in base.modules():
        if type(module).__name__.endswith("RMSNorm") and _fuses(module):
            module.forward = _fused(module)
        elif module is not base:
            module.__class__ = _called_directly(type(module))  # type: ignore[arg-type]  # classes are hashable
        # torch finds parts of a module only after a search has failed.
        vars(module).update({name: part for name, part in module._modules.items() if part is not None})
    return MethodType(_unwrapped(type(base).forward), base)


@cache
def _called_directly(kind: type[nn.Module]) -> type[nn.Module]:
    """The same module, without a search for hooks, which nobody sets, at each call."""
    return type(kind.__name__, (kind,), {"__call__": _unwrapped(kind.forward), "__module__": kind.__module__})


def _unwrapped(forward: Any) -> Any:
    while getattr(forward, "__wrapped__", None) and forward.__code__.co_qualname in WRAPPERS:
        forward = forward.__wrapped__
    return forward


class WholeLayers(nn.ModuleList):
    """transformers slices its layers in every forward; a slice of all of them need not be a new module."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.indices(len(self)) == (0, len(self), 1):
            return self
        return super().__getitem__(index)


def _fuses(norm: nn.Module) -> bool:
    """One kernel gives what the norm's own seven operations give, bit for bit, on rows large, small and zero."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, torch.Tensor) or _epsilon(norm) is None:
        return False
    rows = torch.linspace(-4, 4, 7 * weight.numel(), device=weight.device).view(7, -1).sin()
    rows = (rows * torch.tensor([1.0, 1e-4, 1e4, 0.0, 3.0, 1e-2, 30.0], device=weight.device)[:, None]).to(weight.dtype)
    with torch.inference_mode():
        return torch.equal(norm(rows), _fused(norm)(rows))


def _fused(norm: Any) -> Any:
    shape, weight, epsilon = tuple(norm.weight.shape), norm.weight, _epsilon(norm)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(rows, shape, weight, epsilon)

    return forward


def _epsilon(norm: Any) -> float | None:
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return epsilon if isinstance(epsilon, float) else None
