from itertools import count, repeat
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from dsd_core.embedded.learner import Learner, rate
from dsd_core.embedded.losses import Distillation, NextToken
from dsd_core.embedded.packing import Batch


def _tiny(seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def _batch() -> Batch:
    torch.manual_seed(1)
    return Batch(torch.randint(1, 32, (2, 12)), torch.ones(2, 12))


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, 0.5), (0.3, 1.0), (0.8, 0.5), (1.0, 0.02)])
def test_the_rate_warms_up_stays_and_decays(fraction: float, expected: float) -> None:
    assert rate(fraction) == pytest.approx(expected)


def test_a_learner_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    model, batch = _tiny(0), _batch()
    ticks = count(step=0.1)
    loss, learner = NextToken(model), Learner(model, tmp_path / "tiny.safetensors", clock=lambda: next(ticks))
    before = loss(batch.tokens, batch.weights).item()
    learner.fit(repeat(batch), loss, minutes=0.02)
    assert learner.progress.num_steps == 12
    assert loss(batch.tokens, batch.weights).item() < before

    resumed = Learner(_tiny(5), tmp_path / "tiny.safetensors")
    resumed.resume()
    assert resumed.progress == learner.progress
    assert torch.equal(resumed.model.lm_head.weight, model.lm_head.weight)


def test_a_learner_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    learner = Learner(_tiny(0), tmp_path / "none.safetensors")
    learner.resume()
    assert learner.progress.num_steps == 0


def test_distillation_costs_nothing_when_the_models_agree() -> None:
    batch = _batch()
    same, other = Distillation(_tiny(0), _tiny(0)), Distillation(_tiny(0), _tiny(3))
    assert same(batch.tokens, batch.weights).item() == pytest.approx(0.0, abs=1e-6)
    assert other(batch.tokens, batch.weights).item() > 1e-5


def test_tokens_without_weight_do_not_count() -> None:
    batch, loss = _batch(), NextToken(_tiny(0))
    weights = torch.zeros(2, 12)
    weights[0, 1] = 1.0
    changed = batch.tokens.clone()
    changed[1] = 3
    assert loss(batch.tokens, weights).item() == pytest.approx(loss(changed, weights).item())
