"""Answers in OpenAI's forms: the chat's and the older one of completions, whole and in chunks.

Log-probabilities are those of the distribution that was sampled from: after temperature, top-k and top-p.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Protocol

from dsd_client.gateway.answers import Finished, Said
from dsd_client.gateway.responses import (
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    FinishReason,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from dsd_client.results import Token
from dsd_core.decoding import events
from dsd_core.decoding.frames import Candidate

IMPOSSIBLE = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot say."""

Json = dict[str, Any]


class Form(Protocol):
    """How one request's answers are written down."""

    def part(self, said: Said) -> Json: ...

    def end(self, finished: Finished) -> Json: ...

    def whole(self, answers: Sequence[Finished]) -> Any: ...

    def envelope(self) -> Json: ...


@dataclass(slots=True)
class Envelope:
    """What every chunk of an answer repeats."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def of(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass(slots=True)
class ChatForm:
    """`logprobs` is how many of the target's best tokens to tell with each; None for no log-probabilities at all."""

    about: Envelope
    tokenizer: Any
    logprobs: int | None
    _begun: set[int] = field(default_factory=set)

    def envelope(self) -> Json:
        return self.about.of("chat.completion.chunk")

    def part(self, said: Said) -> Json:
        delta = {"content": said.chunk.text}
        if said.index not in self._begun:
            self._begun.add(said.index)
            delta = {"role": "assistant", **delta}
        return {"index": said.index, "delta": delta, "logprobs": self._logprobs(said.chunk.tokens), "finish_reason": None}

    def end(self, finished: Finished) -> Json:
        return {"index": finished.index, "delta": {}, "logprobs": None, "finish_reason": _reason(finished)}

    def whole(self, answers: Sequence[Finished]) -> ChatCompletion:
        return {**self.about.of("chat.completion"), "choices": [self._choice(answer) for answer in answers]}  # type: ignore[typeddict-item]

    def _choice(self, finished: Finished) -> ChatChoice:
        return {
            "index": finished.index,
            "message": {"role": "assistant", "content": finished.result.text, "refusal": None},
            "logprobs": self._logprobs(finished.result.tokens),
            "finish_reason": _reason(finished),
        }

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        if self.logprobs is None or not tokens:
            return None
        return {"content": [self._token(token, self.logprobs) for token in tokens], "refusal": None}

    def _token(self, token: Token, count: int) -> TokenLogprob:
        best = [self._entry(one.token, one.log_prob) for one in _likeliest(token.top)[:count]]
        return {**self._entry(token.id, token.log_prob), "top_logprobs": best}

    def _entry(self, token: int, log_prob: float | None) -> TopLogprob:
        text = _text(self.tokenizer, token)
        # Half a character has no text of its own, and its bytes are the tokenizer's secret.
        return {"token": text, "logprob": _finite(log_prob), "bytes": None if "\ufffd" in text else list(text.encode())}


@dataclass(slots=True)
class CompletionForm:
    """`logprobs` as in `ChatForm`."""

    about: Envelope
    tokenizer: Any
    logprobs: int | None
    _offsets: dict[int, int] = field(default_factory=dict)
    """Characters of each answer that were written so far."""

    def envelope(self) -> Json:
        return self.about.of("text_completion")

    def part(self, said: Said) -> Json:
        logprobs = self._logprobs(said.index, said.chunk.tokens)
        return {"index": said.index, "text": said.chunk.text, "logprobs": logprobs, "finish_reason": None}

    def end(self, finished: Finished) -> Json:
        return {"index": finished.index, "text": "", "logprobs": None, "finish_reason": _reason(finished)}

    def whole(self, answers: Sequence[Finished]) -> Completion:
        return {**self.about.of("text_completion"), "choices": [self._choice(answer) for answer in answers]}  # type: ignore[typeddict-item]

    def _choice(self, finished: Finished) -> CompletionChoice:
        return {
            "index": finished.index,
            "text": finished.result.text,
            "logprobs": self._logprobs(finished.index, finished.result.tokens),
            "finish_reason": _reason(finished),
        }

    def _logprobs(self, index: int, tokens: Sequence[Token]) -> CompletionLogprobs | None:
        if self.logprobs is None or not tokens:
            return None
        return {
            "tokens": [_text(self.tokenizer, token.id) for token in tokens],
            "token_logprobs": [_finite(token.log_prob) for token in tokens],
            "top_logprobs": [self._top(token, self.logprobs) for token in tokens],
            "text_offset": [self._offset(index, token) for token in tokens],
        }

    def _top(self, token: Token, count: int) -> dict[str, float]:
        return {_text(self.tokenizer, one.token): _finite(one.log_prob) for one in _likeliest(token.top)[:count]}

    def _offset(self, index: int, token: Token) -> int:
        start = self._offsets.get(index, 0)
        self._offsets[index] = start + len(token.text)
        return start


def usage(answers: Sequence[Finished], choices: int) -> Usage:
    """Each prompt counts once, however many answers it got."""
    prompt = sum(finished.result.stats.prompt_tokens for finished in answers if finished.index % choices == 0)
    new = sum(finished.result.stats.new_tokens for finished in answers)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def telemetry(answers: Sequence[Finished]) -> Json:
    """Our figures: those of the SDK's `Stats`, and who served. Of several answers counts add up, and times are the longest."""
    stats = [finished.result.stats for finished in answers]
    together = {name: _together(name, [getattr(one, name) for one in stats]) for name in asdict(stats[0])}
    seconds = together["seconds"]
    judged = together["accepted"] + together["rejections"]
    return {
        **together,
        "tokens_per_second": together["new_tokens"] / seconds if seconds > 0 else 0.0,
        "acceptance": together["accepted"] / judged if judged else None,
        "route": list(dict.fromkeys(address for finished in answers for address in finished.route)),
    }


def origins(tokens: Sequence[Token]) -> Json:
    """Where each token of a chunk came from."""
    return {"tokens": [{"id": token.id, "text": token.text, "origin": token.origin.value} for token in tokens]}


_THE_SAME = {"seed", "lanes"}
"""Of all answers to one request, or not to be added up."""
_SUMS = {"drift_nats"}
"""What adds up though it is no count."""


def _together(name: str, values: Sequence[Any]) -> Any:
    if name in _THE_SAME or not all(type(value) in (int, float) for value in values):
        return _sayable(values[0])
    return sum(values) if name in _SUMS or all(isinstance(value, int) for value in values) else _sayable(max(values))


def _sayable(value: Any) -> Any:
    """JSON has no infinity, which some figures are while nothing was measured."""
    if isinstance(value, Mapping):
        return {name: _sayable(each) for name, each in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def _reason(finished: Finished) -> FinishReason:
    return "stop" if finished.result.finish_reason is events.FinishReason.STOP else "length"


def _likeliest(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """They come in the order of the perturbed scores that choices are made by."""
    return sorted(candidates, key=lambda candidate: -candidate.log_prob)


def _finite(log_prob: float | None) -> float:
    return IMPOSSIBLE if log_prob is None else max(log_prob, IMPOSSIBLE)


def _text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    return text
