"""What the client knows of the target: its tokenizer and its settings. Never its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.ids import TokenId
from dsd_core.errors import UsageError
from dsd_core.model.shape import ModelShape


@dataclass(frozen=True, slots=True)
class TargetModel:
    """`end_tokens` end an answer; `sampling` is the model's own default, greedy unless its settings say otherwise."""

    name: str
    shape: ModelShape
    tokenizer: Any
    end_tokens: frozenset[TokenId]
    sampling: SamplingParams

    @classmethod
    def load(cls, model: str) -> "TargetModel":
        """Raises ModelNotFound and the like."""
        from dsd_core.model.generation_settings import load_generation_settings
        from dsd_core.model.source import resolve
        from dsd_core.model.tokenizer import load_tokenizer

        source = resolve(model)
        tokenizer = load_tokenizer(source)
        settings = load_generation_settings(source)
        return cls(
            name=source.name,
            shape=source.shape,
            tokenizer=tokenizer,
            end_tokens=_end_tokens(settings, tokenizer),
            sampling=_sampling(settings),
        )

    def tokens(self, prompt: str | Sequence[int]) -> list[int]:
        """A raw prompt as token ids, with whatever special tokens the tokenizer adds. Raises UsageError if there are none."""
        ids = list(self.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise UsageError("the prompt is empty; write something")
        if not all(isinstance(token, int) and 0 <= token < self.shape.vocab_size for token in ids):
            raise UsageError(f"the prompt has token ids outside the vocabulary of {self.shape.vocab_size}")
        return ids


def _end_tokens(settings: Mapping[str, Any], tokenizer: Any) -> frozenset[TokenId]:
    named = settings.get("eos_token_id", tokenizer.eos_token_id)
    ids = named if isinstance(named, list) else [named]
    return frozenset(TokenId(token) for token in ids if token is not None)


def _sampling(settings: Mapping[str, Any]) -> SamplingParams:
    penalty = float(settings.get("repetition_penalty") or 1.0)
    if not settings.get("do_sample"):
        return SamplingParams(repetition_penalty=penalty)
    return SamplingParams(
        temperature=_or(settings.get("temperature"), 1.0),
        top_p=_or(settings.get("top_p"), 1.0),
        top_k=int(_or(settings.get("top_k"), 50)),  # transformers' own default
        repetition_penalty=penalty,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
