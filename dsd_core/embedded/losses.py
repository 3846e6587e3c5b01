"""What the two models minimise, over rows whose tokens carry weights."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax
from transformers import Qwen3ForCausalLM


class NextToken:
    """Cross-entropy of the text's next token: how the target learns."""

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        self.model = model

    def __call__(self, tokens: Tensor, weights: Tensor) -> Tensor:
        logits = next_logits(self.model, tokens)
        each = cross_entropy(logits.float(), tokens[:, 1:].flatten(), reduction="none")
        return _weighted(each, weights)


class Distillation:
    """Forward KL from the target's distribution at temperature 1: how the drafter learns what the target will say."""

    def __init__(self, drafter: Qwen3ForCausalLM, target: Qwen3ForCausalLM) -> None:
        self.drafter, self.target = drafter, target

    def __call__(self, tokens: Tensor, weights: Tensor) -> Tensor:
        with torch.no_grad():
            target_log_probs = log_softmax(next_logits(self.target, tokens).float(), dim=-1)
        draft_log_probs = log_softmax(next_logits(self.drafter, tokens).float(), dim=-1)
        each = (target_log_probs.exp() * (target_log_probs - draft_log_probs)).sum(-1)
        return _weighted(each, weights)


def next_logits(model: Qwen3ForCausalLM, tokens: Tensor) -> Tensor:
    """Logits for every token after the first of each row, [rows * (length - 1), vocab]."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(tokens, use_cache=False).last_hidden_state
        logits: Tensor = model.lm_head(hidden[:, :-1].flatten(0, 1))
    return logits


def _weighted(each: Tensor, weights: Tensor) -> Tensor:
    weight = weights[:, 1:].flatten()
    return (each * weight).sum() / weight.sum().clamp(min=1.0)
