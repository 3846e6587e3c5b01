"""What may be asked: the bodies of requests, as OpenAI names their fields.

A field that is not known is ignored; one that is known but not obeyed is refused by name, never ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, model_validator
from pydantic_core import PydanticCustomError

from dsd_core.wire.codec import MAX_TOP_COUNT

MAX_CHOICES = 16
MAX_STOPS = 4



def _whole_characters(text: str) -> str:
    """JSON can name half of a surrogate pair, which is no character and no tokenizer takes."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half a surrogate pair is no text")
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_whole_characters)]
TokenIds = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1)]
StopText = Annotated[Text, Field(min_length=1)]

_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "min_p": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}
"""Fields that would change the answer and that we do not obey, with the values that ask for nothing."""


class Body(BaseModel):
    """Strict as JSON is: a number in a string is a string."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")


class StreamOptions(Body):
    include_usage: StrictBool | None = None


class TelemetryOptions(Body):
    """Ours, not OpenAI's."""

    tokens: StrictBool = False
    """Say of each token where it came from."""


class Asked(Body):
    """What chat and completions have in common."""

    model: Text
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1, description="Not OpenAI's. 0 switches it off.")
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, description="Not OpenAI's. 1 switches it off.")
    seed: int | None = Field(None, ge=-(2**63), le=2**64 - 1)
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    dsd: TelemetryOptions = Field(default_factory=TelemetryOptions, description="Not OpenAI's.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_obeyed(cls, body: Any) -> Any:
        for name, values in _UNSUPPORTED.items() if isinstance(body, dict) else ():
            if body.get(name) is not None and body[name] not in values:
                raise PydanticCustomError("unsupported_parameter", "{name} is not supported here; leave it out", {"name": name})
        return body

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(Body):
    type: Literal["text"]
    text: Text


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Asked):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: StrictBool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_COUNT)


class CompletionRequest(Asked):
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES)] | TokenIds | Annotated[
        list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES)
    ]
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_COUNT)

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several, each as text or as token ids."""
        prompt: Any = self.prompt
        return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
