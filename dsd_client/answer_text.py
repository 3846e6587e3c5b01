"""Tokens as text while they come: no half characters, and nothing of a stop text."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer here."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str: ...


CONTEXT_TOKENS = 6
LONGEST_CONTEXT = 48
LONGEST_CHARACTER = 4
"""Tokens, where each is a byte."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """Push committed tokens, take the text that each makes certain.

    The last tokens of the prompt are context: some tokenizers drop a leading space at the start of a text. Text that may be
    the beginning of a stop text is held back until it is known not to be. Once `stopped`, push no more.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = [text for text in stop if text]
        self._window = self._context(list(prompt))
        self._shown = self._whole_characters(self._window)
        self._held = ""

    def push(self, token: int) -> str:
        """The text that is certain now. A stop text, and what follows it, never is."""
        self._window.append(token)
        return self._release(self._new_text())

    def flush(self) -> str:
        """At the end of the answer: what was held back. Nothing the second time."""
        text = self._decode(self._window)
        rest, self._held, self._shown = self._held + text[len(self._shown) :], "", text
        return "" if self.stopped else rest

    def _new_text(self) -> str:
        text = self._decode(self._window)
        if text.endswith(_INCOMPLETE):
            return ""
        added, self._shown = text[len(self._shown) :], text
        self._shorten_window()
        return added

    def _shorten_window(self) -> None:
        """Let go of old context, unless the rest reads otherwise without it: it may begin within a character."""
        window = self._window[-CONTEXT_TOKENS:]
        text = self._decode(window)
        if text and self._shown.endswith(text):
            self._window, self._shown = window, text

    def _context(self, prompt: list[int]) -> list[int]:
        """The end of the prompt, from the beginning of a character on."""
        for count in range(CONTEXT_TOKENS, LONGEST_CONTEXT):
            if not self._decode(prompt[-count:]).startswith(_INCOMPLETE):
                return prompt[-count:]
        return prompt[-LONGEST_CONTEXT:]

    def _whole_characters(self, tokens: list[int]) -> str:
        """The text of tokens without a character that they leave half: the answer completes it."""
        beginnings = (tokens[: max(0, len(tokens) - cut)] for cut in range(LONGEST_CHARACTER))
        return max((self._decode(beginning).rstrip(_INCOMPLETE) for beginning in beginnings), key=len)

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _release(self, added: str) -> str:
        self._held += added
        found = [at for text in self._stop if (at := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        keep = max((_overlap(self._held, text) for text in self._stop), default=0)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
