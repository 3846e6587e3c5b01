"""How a matrix is multiplied fastest on this machine, for a frame of one node and of several.

Which library and which order of its numbers suits a weight best depends on processor and shape, and by a lot: on one
processor here a frame of four nodes took 3.3 times as long as need be in large matrices, one node 4 times in small ones.
So each shape is measured once, when its weights are loaded. Results differ in the last bits, as they do between
processors.
"""

import math
import time
from typing import Any

import torch
from torch import nn

Rows = torch.Tensor
"""[..., inputs] of a layer, in any dtype that its weight has."""
SMALLEST = 100_000
"""Matrices of fewer numbers take no time worth measuring."""
FRAME_NODES = (1, 1, 4)
"""What is measured: plain decoding counts twice, since it is what everything is compared with."""
REPEATS = 5
CACHE_BYTES = 4 << 20
"""In use, other weights pass through the caches between two uses of one."""


class Layout(nn.Module):
    """One way to hold a weight [outputs, inputs] and multiply by it, in place of torch's linear layer."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()

    def forward(self, rows: Rows) -> torch.Tensor:
        return nn.functional.linear(rows, self.weight, self.bias)


class ByColumns(Layout):
    """The numbers of an input lie side by side, not those of an output."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight.t().contiguous().t(), bias)


class Packed(Layout):
    """oneDNN in place of the library that torch was built with; it holds weights in blocks, as it likes them for few rows."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight, max(FRAME_NODES)), bias)
        self._multiply = torch.ops.mkldnn._linear_pointwise.default  # to look it up takes as long as a small product

    def forward(self, rows: Rows) -> torch.Tensor:
        product: torch.Tensor = self._multiply(rows, self.weight, self.bias, "none", [], "")
        return product


Kinds = tuple[type[Layout], ...]
PLAIN: Kinds = (Layout, ByColumns)
"""Those that hold a weight as an ordinary tensor."""


class Layouts:
    """Chooses for each shape once. On a GPU, and for small matrices, all weights stay as they are."""

    def __init__(self) -> None:
        self._kinds = (*PLAIN, Packed) if _has_one_dnn() else PLAIN
        self._chosen: dict[tuple[object, ...], type[Layout]] = {}

    def replace_in(self, base: nn.Module) -> None:
        """Give every linear layer of a model its layout. Its weight is freed before the next one is copied."""
        for name in [name for name, module in base.named_modules() if _is_linear(module)]:
            owner, _, attribute = name.rpartition(".")
            setattr(base.get_submodule(owner), attribute, self._of_module(base.get_submodule(name)))

    def _of_module(self, linear: Any) -> Layout:
        return self.of(linear.weight, linear.bias)

    def of(self, weight: torch.Tensor, bias: torch.Tensor | None = None, kinds: Kinds | None = None) -> Layout:
        """The fastest layout of a weight, for weights of its shape. One of `kinds` where they are given."""
        if not _matters(weight):
            return Layout(weight, bias)
        kinds = kinds or self._kinds
        shape = (weight.shape, weight.dtype, bias is not None, kinds)
        if shape not in self._chosen:
            self._chosen[shape] = min(kinds, key=lambda kind: _seconds(kind, weight, bias))
        return self._chosen[shape](weight, bias)


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and _matters(module.weight)


def _matters(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and weight.numel() >= SMALLEST


@torch.inference_mode()
def _seconds(kind: type[Layout], weight: torch.Tensor, bias: torch.Tensor | None) -> float:
    try:
        layout = kind(weight, bias)
        return sum(_seconds_for(layout, torch.ones(nodes, weight.shape[1], dtype=weight.dtype)) for nodes in FRAME_NODES)
    except RuntimeError:  # oneDNN wants instructions for numbers of 16 bits that not every processor has
        if kind is Layout:
            raise
        return math.inf


def _seconds_for(layout: Layout, rows: Rows) -> float:
    """The least of a few looks: whatever else the machine does only adds to it."""
    layout(rows)
    others = torch.empty(CACHE_BYTES, dtype=torch.uint8)
    looks = []
    for _ in range(REPEATS):
        others.add_(1)
        started = time.perf_counter()
        layout(rows)
        looks.append(time.perf_counter() - started)
    return min(looks)


def _has_one_dnn() -> bool:
    """These operations are torch's own, for its compiler; a build or a release may lack them."""
    return torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
        torch.ops.mkldnn, "_linear_pointwise"
    )
