"""The gateway itself: requests become questions to the SDK, and what it answers goes out whole or in chunks."""

import asyncio
import difflib
import json
import logging
import secrets
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from dsd_client.chat_history import ChatHistory
from dsd_client.client import MAX_NEW_TOKENS, Client, ConversationOptions
from dsd_client.gateway.admission import Admission, AdmissionConfig
from dsd_client.gateway.answers import Answers, Finished, Question, Quiet, Said
from dsd_client.gateway.errors import InvalidRequest, failure, failure_of
from dsd_client.gateway.forms import ChatForm, CompletionForm, Envelope, Form, origins, telemetry, usage
from dsd_client.gateway.metrics import Metrics
from dsd_client.gateway.requests import MAX_CHOICES, Asked, ChatRequest, CompletionRequest
from dsd_core import embedded
from dsd_core.errors import DsdError, ModelNotFound, PeerLost, PromptTooLong, UsageError

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """How a gateway answers, where a request does not say otherwise."""

    api_key: str | None = None
    """Without one, whoever can connect may ask."""
    max_new_tokens: int = MAX_NEW_TOKENS
    stop: Sequence[str] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters that replace the model's own."""
    options: ConversationOptions = field(default_factory=lambda: ConversationOptions())
    """Of every conversation."""
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)


class Gateway:
    """Questions to an open client. It is `ready` when the swarm has answered a moment ago."""

    def __init__(self, client: Client, config: GatewayConfig) -> None:
        self.client = client
        self.config = config
        self.model = served_name(client.target.name)
        self.admission = Admission(config.admission)
        self.metrics = Metrics(self.admission)
        self._open: set[Answers] = set()

    # -- questions ---------------------------------------------------------------------------------------------------

    async def chat(self, request: ChatRequest) -> tuple[Question, Form]:
        """What a chat request asks. Raises DsdError where it cannot be obeyed."""
        self.require_model(request.model)
        if request.top_logprobs is not None and not request.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", "top_logprobs")
        history = ChatHistory(self.client.target, messages=[_message(one.role, one.text) for one in request.messages])
        prompt = await self._tokens(history.whole_prompt, "messages")
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        limit = request.max_completion_tokens or request.max_tokens
        question = self._question(request, [prompt], limit, logprobs, history.stop)
        return question, ChatForm(self._envelope("chatcmpl"), self.client.target.tokenizer, logprobs)

    async def completion(self, request: CompletionRequest) -> tuple[Question, Form]:
        """What a completion request asks. Raises DsdError where it cannot be obeyed."""
        self.require_model(request.model)
        target = self.client.target
        prompts = [await self._tokens(partial(target.tokens, prompt), "prompt") for prompt in request.prompts]
        question = self._question(request, prompts, request.max_tokens, request.logprobs)
        return question, CompletionForm(self._envelope("cmpl"), target.tokenizer, request.logprobs)

    def _question(
        self,
        request: Asked,
        prompts: Sequence[Sequence[int]],
        limit: int | None,
        logprobs: int | None,
        stop: Sequence[str] = (),
    ) -> Question:
        choices = request.n or 1
        if choices * len(prompts) > MAX_CHOICES:
            raise InvalidRequest(f"n asks for more than {MAX_CHOICES} answers in all; ask for fewer", "n")
        options = ConversationOptions(**self.config.options)
        options["sampling"] = self._sampling(request)
        # The chosen token's own log-probability is that of the best.
        options["logprobs"] = 0 if logprobs is None else max(1, logprobs)
        return Question(
            prompts=prompts,
            choices=choices,
            max_new_tokens=limit or self._room(max(map(len, prompts))),
            stop=(*self.config.stop, *request.stops, *stop),
            options=options,
        )

    def _sampling(self, request: Asked) -> Any:
        """The request's parameters over the gateway's over the model's. The seed is drawn here: all choices share it."""
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        said = {name: value for name in names if (value := getattr(request, name)) is not None}
        params = replace(self.client.target.sampling, **{**self.config.sampling, **said})
        seed = params.seed if request.seed is None else request.seed % 2**64
        return replace(params, seed=secrets.randbits(64) if seed is None else seed)

    def _room(self, prompt: int) -> int:
        """What an answer may take where the request does not say: never more than the model has positions for."""
        room = self.client.target.shape.max_positions - prompt
        if room < 1:
            raise PromptTooLong(f"the prompt has {prompt} tokens and leaves no room for an answer; shorten it")
        return min(self.config.max_new_tokens, room)

    async def _tokens(self, tokenise: Callable[[], list[int]], param: str) -> list[int]:
        """In a thread: a long text takes its time."""
        try:
            return await asyncio.to_thread(tokenise)
        except UsageError as error:
            raise InvalidRequest(str(error), param) from None

    def require_model(self, name: str) -> None:
        if name != self.model:
            near = difflib.get_close_matches(name, [self.model], cutoff=0.5)
            hint = f"did you mean {self.model!r}?" if near else f"this gateway serves {self.model!r}"
            raise ModelNotFound(f"there is no such model here; {hint}")

    def _envelope(self, prefix: str) -> Envelope:
        return Envelope(f"{prefix}-{uuid.uuid4().hex}", self.model)

    # -- answers -----------------------------------------------------------------------------------------------------

    async def whole(self, question: Question, form: Form, request: Asked, asked_at: float) -> Any:
        """All answers at once. Raises DsdError."""
        finished: list[Finished] = []
        async with self._answers(question) as answers, aclosing(answers.events()) as events:
            meter = self.metrics.request(asked_at)
            async for event in events:
                meter.on_event(event)
                if isinstance(event, Finished):
                    finished.append(event)
        finished.sort(key=lambda one: one.index)
        tokens = [token for one in finished for token in one.result.tokens] if request.dsd.tokens else None
        about = telemetry(finished) | (origins(tokens) if tokens is not None else {})
        return {**form.whole(finished), "usage": usage(finished, question.choices), "dsd": about}

    async def stream(
        self, question: Question, form: Form, request: Asked, asked_at: float
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events. A DsdError before the first is raised; a later one is an event, and the last."""
        begun = False
        writer = _Writer(question, form, request)
        try:
            async with self._answers(question) as answers, aclosing(answers.events()) as events:
                meter = self.metrics.request(asked_at)
                async for event in events:
                    meter.on_event(event)
                    yield writer.write(event)
                    begun = True
            yield writer.end()
        except DsdError as error:
            if not begun:
                raise
            yield _event(failure_of(error).body)
        except Exception:
            if not begun:
                raise
            log.exception("an answer was cut short by a bug")
            yield _event(failure(500, "the gateway failed; its log says why").body)

    @asynccontextmanager
    async def _answers(self, question: Question) -> AsyncIterator[Answers]:
        with self.admission.admitted(question.answers):
            answers = Answers(self.client, self.admission, question)
            self._open.add(answers)
            try:
                async with answers:
                    yield answers
            finally:
                self._open.discard(answers)

    def stop(self) -> None:
        """End what still runs, and say so to whoever listens."""
        for answers in self._open:
            answers.interrupt(PeerLost("the gateway was told to stop; ask again when it is back"))


class _Writer:
    """The events of one stream."""

    def __init__(self, question: Question, form: Form, request: Asked) -> None:
        self._question = question
        self._form = form
        self._request = request
        self._finished: list[Finished] = []

    def write(self, event: Said | Finished | Quiet) -> bytes:
        match event:
            case Quiet():
                return KEEP_ALIVE
            case Said():
                return self._chunk(self._form.part(event), self._origins(event))
            case Finished():
                self._finished.append(event)
                is_last = len(self._finished) == self._question.answers
                return self._chunk(self._form.end(event), telemetry(self._finished) if is_last else None)

    def end(self) -> bytes:
        if not self._request.include_usage:
            return DONE
        total = usage(self._finished, self._question.choices)
        return _event({**self._form.envelope(), "choices": [], "usage": total}) + DONE

    def _origins(self, said: Said) -> dict[str, Any] | None:
        return origins(said.chunk.tokens) if self._request.dsd.tokens else None

    def _chunk(self, choice: dict[str, Any], dsd: dict[str, Any] | None) -> bytes:
        # Every chunk but the last names the usage, OpenAI says, if any does.
        usage = {"usage": None} if self._request.include_usage else {}
        return _event({**self._form.envelope(), "choices": [choice], **usage, **({"dsd": dsd} if dsd else {})})


def _event(content: Any) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _message(role: str, text: str) -> dict[str, str]:
    """`developer` is OpenAI's newer word for what templates call the system."""
    return {"role": "system" if role == "developer" else role, "content": text}


def served_name(model: str) -> str:
    """What callers call the model: a directory's name, without the path on this machine."""
    if model == str(embedded.TARGET):
        return "dsd-embedded"
    return Path(model).name if Path(model).is_dir() else model
