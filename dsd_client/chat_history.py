"""The turns of a chat, as the tokens of one growing prompt."""

import json
from dataclasses import dataclass, field
from typing import Any

from jinja2.exceptions import TemplateError

from dsd_client.answer_text import AnswerText
from dsd_client.target_model import TargetModel
from dsd_core.errors import UsageError

USER, ASSISTANT = "User", "Assistant"


@dataclass(slots=True)
class ChatHistory:
    """What was said. A prompt goes on where the last answer ended, token for token, so only the new turn has to be sent."""

    target: TargetModel
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _text: str = ""

    @property
    def stop(self) -> tuple[str, ...]:
        """Where a model without a chat template would go on to speak for the user."""
        return () if self._has_template else (f"\n{USER}:",)

    def prompt(self, said: str) -> list[int]:
        """The tokens of all turns so far and this one."""
        self.messages.append({"role": "user", "content": said})
        text = self._render()
        if self._tokens and text.startswith(self._text):
            self._tokens += self._encode(text[len(self._text) :])
        else:
            self._tokens = self._encode(text)
        self._text = text
        return list(self._tokens)

    def whole_prompt(self) -> list[int]:
        """The tokens of all messages, where the caller keeps them. Raises UsageError for a conversation that the model's
        template does not allow."""
        try:
            return self._encode(self._render())
        except TemplateError as error:
            raise UsageError(f"the model's chat template does not allow these messages: {error}") from None

    def answered(self, text: str, token_ids: list[int]) -> None:
        """Take note of an answer. Its end token is left to the template, which writes one itself."""
        self.messages.append({"role": "assistant", "content": text})
        ended = bool(token_ids) and token_ids[-1] in self.target.end_tokens
        tokens, shown = self._shown(text, token_ids[:-1] if ended else token_ids)
        self._tokens += tokens
        self._text += shown

    def forget(self) -> None:
        self.messages.clear()
        self._tokens.clear()
        self._text = ""

    def forget_last_turn(self) -> None:
        """The last turn got no answer."""
        self.messages.pop()
        self._tokens.clear()
        self._text = ""

    def as_json(self) -> str:
        """What was said, as OpenAI's API takes messages."""
        return json.dumps({"model": self.target.name, "messages": self._all_messages}, ensure_ascii=False, indent=2) + "\n"

    def as_markdown(self) -> str:
        """What was said, for people."""
        said = "".join(f"**{message['role']}**\n\n{message['content'].strip()}\n\n" for message in self._all_messages)
        return f"# {self.target.name}\n\n{said}"

    @property
    def _all_messages(self) -> list[dict[str, str]]:
        system: list[dict[str, str]] = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.messages

    def _shown(self, text: str, token_ids: list[int]) -> tuple[list[int], str]:
        """The tokens of an answer whose text is in it, and that text: those of a stop text were said but are not shown."""
        reader, shown, whole = AnswerText(self.target.tokenizer, self._tokens), "", 0
        for count, token in enumerate(token_ids, start=1):
            certain = reader.push(token)
            if not text.startswith(shown + certain):
                return token_ids[:whole], shown
            if certain:
                shown, whole = shown + certain, count
        return token_ids, text

    @property
    def _has_template(self) -> bool:
        return bool(getattr(self.target.tokenizer, "chat_template", None))

    def _render(self) -> str:
        if not self._has_template:
            return self._render_plainly()
        text: str = self.target.tokenizer.apply_chat_template(
            self._all_messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def _render_plainly(self) -> str:
        """What the model said stands there as it said it, leading space and all: the next prompt goes on from its tokens."""
        turns = [_plain_turn(message["role"], message["content"]) for message in self.messages]
        return "\n".join([*([self.system] if self.system else []), *turns, f"{ASSISTANT}:"])

    def _encode(self, text: str) -> list[int]:
        """A template writes its special tokens itself; without one the tokenizer may add its own, at the start alone."""
        tokenizer: Any = self.target.tokenizer
        adds = not self._has_template and not self._tokens
        return list(tokenizer(text, add_special_tokens=adds)["input_ids"])


def _plain_turn(role: str, content: str) -> str:
    match role:
        case "user":
            return f"{USER}: {content.strip()}"
        case "assistant":
            return f"{ASSISTANT}:{content}"
        case _:
            return content
