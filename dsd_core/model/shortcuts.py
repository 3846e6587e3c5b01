"""The same numbers with less interpreting: for one token, half of a small model's time goes into calling, not computing.

Nothing here knows a family. A part is replaced only where the replacement gives the same, and left alone elsewhere.
"""

from collections.abc import Callable
from functools import cache
from types import MethodType
from typing import Any

from torch import nn

from dsd_core.model.norm import fast_norm
from dsd_core.model.rotary import RotaryTable

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
    for module in list(base.modules()):
        for name, part in list(module.named_children()):
            setattr(module, name, _replaced(part))
    for module in base.modules():
        if module is not base:
            module.__class__ = _called_directly(type(module))  # type: ignore[arg-type]  # classes are hashable
        # torch finds the parts of a module only after a search has failed.
        vars(module).update(module.named_children())
    _look_up_plainly(getattr(base, "config", None))
    return MethodType(_unwrapped(type(base).forward), base)


def _replaced(module: nn.Module) -> nn.Module:
    kind = type(module).__name__
    if kind.endswith("RMSNorm"):
        return fast_norm(module)
    return RotaryTable(module) if kind.endswith("RotaryEmbedding") and RotaryTable.suits(module) else module


@cache
def _called_directly(kind: type[nn.Module]) -> type[nn.Module]:
    """The same module, without a search for hooks, which nobody sets, at each call."""
    return type(kind.__name__, (kind,), {"__call__": _unwrapped(kind.forward), "__module__": kind.__module__})


def _unwrapped(forward: Any) -> Any:
    while getattr(forward, "__wrapped__", None) and forward.__code__.co_qualname in WRAPPERS:
        forward = forward.__wrapped__
    return forward


def _look_up_plainly(config: Any) -> None:
    """A config searches for other names and for settings of single layers at each look; ours has neither, or is left alone."""
    if config is not None and not config.attribute_map and not config.is_heterogeneous:
        config.__class__ = _plain(type(config))  # type: ignore[arg-type]


@cache
def _plain(kind: type[Any]) -> type[Any]:
    return type(kind.__name__, (kind,), {"__getattribute__": object.__getattribute__, "__module__": kind.__module__})


class WholeLayers(nn.ModuleList):
    """transformers slices its layers in every forward; a slice of all of them need not be a new module."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) and index.indices(len(self)) == (0, len(self), 1):
            return self
        return super().__getitem__(index)


