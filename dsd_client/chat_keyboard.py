"""How a chat reads what people write: line by line, or in a terminal with an editor."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

from dsd_core.network import private_file

HISTORY_FILE = "chat_history"
LEAVE = "/exit or Ctrl-D to leave."


class Keyboard(Protocol):
    """Where turns come from."""

    def read(self) -> str | None:
        """The next turn, None at the end. Ctrl-C empties the line."""
        ...


class LineKeyboard:
    """A line is a turn, from a pipe or a simple terminal."""

    def __init__(self, prompt: str, note: Callable[[str], None]) -> None:
        self._prompt = prompt
        self._note = note
        with suppress(ImportError):  # arrow keys at the prompt, where Python has them
            import readline  # noqa: F401

    def read(self) -> str | None:
        while True:
            try:
                return input(self._prompt)
            except EOFError:
                return None
            except KeyboardInterrupt:
                self._note(f"\n{LEAVE}")


class EditorKeyboard:
    """Several lines may be pasted, or written with Alt-Enter. What was written is kept in `data_dir`, for its owner alone."""

    def __init__(self, commands: Sequence[str], data_dir: Path, note: Callable[[str], None]) -> None:
        self._note = note
        history = data_dir / HISTORY_FILE
        private_file.create(history, b"")
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            history=FileHistory(str(history)),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # Others keep empty lines free below.
            key_bindings=_bindings(),
        )

    def read(self) -> str | None:
        while True:
            try:
                return self._session.prompt()
            except EOFError:
                return None
            except KeyboardInterrupt:
                self._note(LEAVE)


def _bindings() -> KeyBindings:
    """Enter sends, although there may be several lines."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
