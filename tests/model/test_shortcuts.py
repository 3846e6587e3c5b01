"""Shortcuts change nothing but the last bit of a norm."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, MixtralConfig, Qwen3Config, Qwen3Model
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from dsd_core.model import shortcuts
from dsd_core.model.rotary import RotaryTable


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


def test_a_plain_norm_is_replaced_and_says_the_same() -> None:
    norm = random(Qwen3RMSNorm(48, 1e-6))
    rows = torch.randn(9, 48) * 7
    expected = norm(rows)
    base = Base(norm)
    shortcuts.take(base)
    assert base.norm is not norm
    torch.testing.assert_close(base.norm(rows), expected, rtol=2e-6, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_that_rounds_in_between_is_left_alone(dtype: torch.dtype) -> None:
    norm = random(Qwen3RMSNorm(48, 1e-6)).to(dtype)
    base = Base(norm)
    shortcuts.take(base)
    assert base.norm is norm


def test_a_norm_of_another_kind_is_left_alone() -> None:
    norm = random(Gemma3RMSNorm(48, 1e-6))
    base = Base(norm)
    shortcuts.take(base)
    assert base.norm is norm


def test_rotary_angles_are_looked_up_and_the_same_bits() -> None:
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=32, num_attention_heads=2))
    table = RotaryTable(rotary)
    rows = torch.zeros(1, 3, 32)
    for positions in ([0, 1, 2], [5, 900, 7], [1023, 1024, 3000], [4, 4, 4]):
        asked = torch.tensor([positions])
        for looked_up, computed in zip(table(rows, asked), rotary(rows, asked), strict=True):
            assert torch.equal(looked_up, computed)


def test_angles_that_change_with_the_length_are_computed() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert not RotaryTable.suits(LlamaRotaryEmbedding(LlamaConfig(rope_parameters=rope)))
    assert RotaryTable.suits(LlamaRotaryEmbedding(LlamaConfig()))


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
    torch.testing.assert_close(forward(input_ids=tokens).last_hidden_state, expected, rtol=1e-5, atol=1e-6)


def test_a_config_is_looked_up_plainly_and_says_the_same() -> None:
    config = Qwen3Config(num_hidden_layers=1)
    before = config.to_dict()
    shortcuts._look_up_plainly(config)
    assert type(config).__getattribute__ is object.__getattribute__
    assert config.to_dict() == before
    assert isinstance(config, Qwen3Config)


def test_a_config_with_other_names_for_its_settings_keeps_them() -> None:
    config = MixtralConfig()
    shortcuts._look_up_plainly(config)
    assert config.num_experts == config.num_local_experts
