"""Shortcuts change no bit."""

import torch
from torch import nn
from transformers import Qwen3Config, Qwen3Model
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from dsd_core.model import shortcuts


class Base(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.norm = norm

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers[1](self.layers[0](rows))


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


def test_modules_called_directly_are_what_they_were() -> None:
    base = Base(nn.Identity())
    rows = torch.randn(3, 2)
    expected = base(rows)
    forward = shortcuts.take(base)
    assert torch.equal(forward(rows), expected)
    assert isinstance(base.layers[0], nn.Linear)
    assert type(base.layers[0]).__name__ == "Linear"
    assert type(base.layers[0]) is type(base.layers[1])
    assert type(base.layers[0]).__call__ is nn.Linear.forward


def test_nothing_is_left_around_the_forward_of_a_model_of_transformers() -> None:
    config = Qwen3Config(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, vocab_size=8
    )
    base = Qwen3Model(config).eval()
    tokens = torch.tensor([[1, 2, 3]])
    expected = base(input_ids=tokens).last_hidden_state
    forward = shortcuts.take(base)
    assert forward.__func__ is not Qwen3Model.forward
    assert torch.equal(forward(input_ids=tokens).last_hidden_state, expected)
