"""What everything is compared with: transformers' own generate, greedy, in fp32 on one thread of this process."""

import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dsd_core.model.source import ModelSource


class Reference:
    """A whole model. Call it in a thread: it computes."""

    def __init__(self, source: ModelSource) -> None:
        directory = source.repository.directory
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]
        self._tokenizer = AutoTokenizer.from_pretrained(directory)

    @torch.inference_mode()
    def seconds(self, prompt: str, tokens: int) -> float:
        """From the prompt's text to `tokens` tokens, whatever the model thinks of ending sooner."""
        started = time.perf_counter()
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
        self._model.generate(**self._tokenizer(prompt, return_tensors="pt"), **options)
        return time.perf_counter() - started
