"""Shortcuts change no bit."""

import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from dsd_core.model import shortcuts


class Base(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.norm = norm


def random(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.weight.normal_()
    return norm


def test_a_plain_norm_is_fused_and_says_the_same() -> None:
    norm = random(Qwen3RMSNorm(48, 1e-6))
    rows = torch.randn(9, 48) * 7
    expected = norm(rows)
    shortcuts.take(Base(norm))
    assert "forward" in vars(norm)
    assert torch.equal(norm(rows), expected)


def test_a_norm_of_another_kind_is_left_alone() -> None:
    norm = random(Gemma3RMSNorm(48, 1e-6))
    shortcuts.take(Base(norm))
    assert "forward" not in vars(norm)


def test_layers_are_sliced_as_before() -> None:
    base = Base(nn.Identity())
    first, second = base.layers
    shortcuts.take(base)
    assert base.layers[:2] is base.layers
    assert list(base.layers) == [first, second]
    assert list(base.layers[1:]) == [second]
    assert base.layers[0] is first
    assert next(name for name, _ in base.named_parameters()) == "layers.0.weight"
