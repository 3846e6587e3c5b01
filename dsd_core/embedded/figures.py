"""What is measured of the pair: answers that are right, drafts that are accepted, losses, and time a token."""

import statistics
import time
from collections import Counter
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, Qwen3ForCausalLM

from dsd_core.embedded.continuations import continuations
from dsd_core.embedded.word_problems import Problem, is_correct

Pair = tuple[list[int], list[int]]
"""A prompt and what follows it, in tokens."""


@dataclass(frozen=True)
class Acceptance:
    """How many of the target's own greedy choices were the drafter's first choice."""

    num_accepted: int
    num_tokens: int

    @property
    def share(self) -> float:
        return self.num_accepted / self.num_tokens


def answers(model: Qwen3ForCausalLM, tokenizer: Tokenizer, problems: list[Problem], num_new: int = 120) -> list[bool]:
    """Which of `problems` the model's greedy answer gets right."""
    prompts = [tokenizer.encode(problem.prompt).ids for problem in problems]
    texts = [tokenizer.decode(tokens) for tokens in continuations(model, prompts, num_new)]
    return [is_correct(problem, text) for problem, text in zip(problems, texts, strict=True)]


def majority_share(problems: list[Problem]) -> float:
    """How often the most frequent answer is right."""
    return Counter(problem.answer for problem in problems).most_common(1)[0][1] / len(problems)


def greedy_pairs(target: Qwen3ForCausalLM, prompts: list[list[int]], num_new: int = 128) -> list[Pair]:
    """Every prompt with the target's own greedy continuation."""
    return list(zip(prompts, continuations(target, prompts, num_new), strict=True))


@torch.inference_mode()
def acceptance(drafter: Qwen3ForCausalLM, pairs: list[Pair]) -> Acceptance:
    """The drafter's first choices along the target's `greedy_pairs`, with the target's tokens before each."""
    num_accepted = 0
    for prompt, continuation in pairs:
        choices = _following_logits(drafter, prompt, continuation).argmax(-1)
        num_accepted += int((choices == torch.tensor(continuation)).sum())
    return Acceptance(num_accepted, sum(len(continuation) for _, continuation in pairs))


@torch.inference_mode()
def loss(model: Qwen3ForCausalLM, pairs: list[Pair]) -> float:
    """Nats a token of the second halves of `pairs`."""
    total, num_tokens = 0.0, 0
    for prompt, continuation in pairs:
        logits = _following_logits(model, prompt, continuation)
        total += cross_entropy(logits, torch.tensor(continuation), reduction="sum").item()
        num_tokens += len(continuation)
    return total / num_tokens


@torch.inference_mode()
def seconds_per_token(
    models: list[Qwen3ForCausalLM], prompt: list[int], tokens_per_turn: int, num_tokens: int = 128
) -> list[float]:
    """Each model's median time for a cached step of one token. The models take turns, so that all see the same load;
    short turns cost the smaller model most, for it starts each with cold caches."""
    caches = [model(torch.tensor([prompt]), use_cache=True).past_key_values for model in models]
    times: list[list[float]] = [[] for _ in models]
    for _ in range(num_tokens // tokens_per_turn):
        for model, cache, spent in zip(models, caches, times, strict=True):
            spent += [_step_seconds(model, cache, prompt[-1]) for _ in range(tokens_per_turn)]
    return [statistics.median(spent) for spent in times]


def _step_seconds(model: Qwen3ForCausalLM, cache: Cache, token: int) -> float:
    started = time.perf_counter()
    int(model(torch.tensor([[token]]), past_key_values=cache, use_cache=True).logits[0, -1].argmax())
    return time.perf_counter() - started


def _following_logits(model: Qwen3ForCausalLM, prompt: list[int], continuation: list[int]) -> Tensor:
    """Logits for each token of `continuation`, [tokens, vocab]."""
    logits: Tensor = model(torch.tensor([prompt + continuation]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 : -1]
