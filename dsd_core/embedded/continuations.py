"""What the target itself writes, in batches: to check its answers, and for the drafter to learn from."""

import json
from pathlib import Path
from random import Random
from typing import Final

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from dsd_core.embedded.curriculum import Library
from dsd_core.embedded.packing import Row
from dsd_core.embedded.vocabulary import END_ID

_BATCH: Final = 128
_NUM_NEW: Final = 128
_LONGEST_PROMPT: Final = 256
_PROMPT_WEIGHT: Final = 0.2


def continuations(model: Qwen3ForCausalLM, prompts: list[list[int]], num_new: int, temperature: float = 0.0) -> list[list[int]]:
    """What `model` writes after each prompt, up to the end token or `num_new` tokens."""
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    written: dict[int, list[int]] = {}
    for start in range(0, len(prompts), _BATCH):
        chunk = by_length[start : start + _BATCH]
        chosen = [prompts[index] for index in chunk]
        written.update(zip(chunk, _continue(model, chosen, num_new, temperature), strict=True))
    return [written[index] for index in range(len(prompts))]


def write_texts(model: Qwen3ForCausalLM, tokenizer: Tokenizer, library: Library, path: Path, num_texts: int) -> None:
    """Write `num_texts` continuations of training prompts, mostly greedy ones of GSM8K questions, as JSON lines."""
    rng = Random(3)
    shares = ((0.70, library.gsm8k, 0.0), (0.15, library.gsm8k, 0.7), (0.15, library.functions, 0.0))
    with path.open("w") as lines:
        for share, source, temperature in shares:
            chosen = rng.sample(source, min(len(source), round(share * num_texts)))
            prompts = [tokenizer.encode(document.prompt).ids[:_LONGEST_PROMPT] for document in chosen]
            for pair in zip(prompts, continuations(model, prompts, _NUM_NEW, temperature), strict=True):
                lines.write(json.dumps(pair) + "\n")


def read_texts(path: Path) -> list[Row]:
    """The rows that `write_texts` left at `path`."""
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    return [Row(head + body, [_PROMPT_WEIGHT] * len(head) + [1.0] * len(body)) for head, body in pairs]


@torch.inference_mode()
def _continue(model: Qwen3ForCausalLM, prompts: list[list[int]], num_new: int, temperature: float) -> list[list[int]]:
    longest = max(map(len, prompts))
    tokens = torch.tensor([[END_ID] * (longest - len(prompt)) + prompt for prompt in prompts])  # [prompts, longest]
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    written = model.train(False).generate(tokens, attention_mask=mask, max_new_tokens=num_new, **sampling)
    return [_until_end(row) for row in written[:, longest:].tolist()]


def _until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END_ID) + 1] if END_ID in tokens else tokens
