"""`dsd-client chat`: a conversation in the terminal."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from dsd_client.chat_history import ChatHistory
from dsd_client.chat_keyboard import EditorKeyboard, Keyboard, LineKeyboard
from dsd_client.chat_screen import PlainScreen, Screen, TerminalScreen
from dsd_client.commands.generate import summary
from dsd_client.commands.options import AnswerOptions
from dsd_client.sync_client import SyncAnswers, SyncClient
from dsd_core.errors import DsdError, PromptTooLong, UsageError

POSITIONS = 4096
COMMANDS = {
    "/help": "this",
    "/clear": "forget what was said",
    "/system TEXT": "what the model is told before the first turn; forgets what was said",
    "/model [ID|DIR]": "which model answers; with a name, go on with that one",
    "/stats": "figures of the last answer",
    "/colors": "show where tokens came from, or Markdown again",
    "/save FILE": "write down what was said, as Markdown, or as JSON where FILE ends in .json",
    "/exit": "leave, as Ctrl-D does",
}
HELP = "\n".join(f"{name:<16}{what}" for name, what in COMMANDS.items())
KEYS = "Alt-Enter begins another line; Ctrl-C stops an answer."
WHO_CAN_READ = "Whoever runs the peers that answer can read what you write."


def chat(options: AnswerOptions, system: str | None) -> None:
    """Read turns from stdin until it ends. In a terminal answers are Markdown; else they are plain, and notes go to stderr."""
    screen, keyboard = _terminal(options)
    messages: list[dict[str, str]] = []
    before = options
    while True:
        try:
            with SyncClient(**options.client) as client:
                talk = _Talk(client, options, ChatHistory(client.target, system, messages), screen)
                if sys.stdin.isatty():
                    screen.note(f"{client.target.name}. {WHO_CAN_READ} /help for help.")
                talk.go_on(keyboard)
        except DsdError as error:
            if options is before:
                raise
            screen.note(f"{error}. {before.model or 'The embedded model'} goes on.")
            options = before
        else:
            if talk.wanted_model is None:
                return
            # The drafter that was named shares the other model's vocabulary, and perhaps not this one's.
            system, before = talk.history.system, options
            options = replace(options, model=talk.wanted_model, drafter=None)


def _terminal(options: AnswerOptions) -> tuple[Screen, Keyboard]:
    """Plain, unless there is somebody at both ends."""
    console = Console()
    if not (sys.stdin.isatty() and console.is_terminal) or console.is_dumb_terminal:
        plain = PlainScreen()
        return plain, LineKeyboard("> " if sys.stdin.isatty() else "", plain.note)
    screen = TerminalScreen(console)
    return screen, EditorKeyboard([name.split()[0] for name in COMMANDS], options.data_dir, screen.note)


class _Talk:
    """The chat's state: what was said, and the session, which stays open between turns."""

    def __init__(self, client: SyncClient, options: AnswerOptions, history: ChatHistory, screen: Screen) -> None:
        self._client = client
        self._options = options
        self.history = history
        self._screen = screen
        self._session = ExitStack()
        self._answers: SyncAnswers | None = None
        self.wanted_model: str | None = None
        """To go on with, when the talk has ended."""

    def go_on(self, keyboard: Keyboard) -> None:
        """Until whoever talks leaves, or wants another model."""
        try:
            while (line := keyboard.read()) is not None and self._take(line.strip()):
                pass
        finally:
            self._close()

    def _take(self, line: str) -> bool:
        """A turn, or a command. False to leave."""
        name, _, rest = line.partition(" ")
        match name:
            case "":
                pass
            case "/exit":
                return False
            case "/help":
                self._note(f"{HELP}\n{KEYS}")
            case "/clear":
                self.history.forget()
            case "/system":
                self.history.forget()
                self.history.system = rest.strip() or None
            case "/stats":
                self._note(summary(self._answers.result.stats) if self._answers else "There is no answer yet.")
            case "/colors":
                self._screen.colors = not self._screen.colors
            case "/save":
                self._save(rest.strip())
            case "/model" if rest.strip():
                self.wanted_model = rest.strip()
                return False
            case "/model":
                self._note(self._client.target.name)
            case _ if name.startswith("/"):
                self._note(f"There is no {name}; /help lists what there is.")
            case _:
                self._turn(line)
        return True

    def _close(self) -> None:
        """Close the session; the next turn opens another, and sends it all that was said."""
        self._answers = None
        self._session.close()

    def _turn(self, said: str) -> None:
        try:
            answers = self._answers or self._open()
        except KeyboardInterrupt:
            return self._note("[stopped]")
        except DsdError as error:
            return self._note(f"{error}. Say it again to try again.")
        try:
            self._answer(answers, said)
        except UsageError as error:
            self.history.forget_last_turn()
            self._note(str(error))
        except PromptTooLong as error:
            self.history.forget_last_turn()
            self._note(f"{error}; or /clear what was said")
        except DsdError as error:
            self.history.answered(error.text, list(error.token_ids))
            self._close()
            self._note(f"\n{error}. Say something to try again; what was said is kept.")

    def _answer(self, answers: SyncAnswers, said: str) -> None:
        prompt = self.history.prompt(said)
        stop = (*self._options.stop, *self.history.stop)
        peers: tuple[str, ...] = ()
        try:
            with self._screen.answering() as show:
                for chunk in answers.ask(prompt, max_new_tokens=self._options.max_new_tokens, stop=stop):
                    show(chunk)
                    peers = chunk.route
        except KeyboardInterrupt:
            self._note("[stopped]")
        self._screen.answered(answers.result.stats, len(peers))
        self.history.answered(answers.result.text, answers.result.token_ids)

    def _save(self, name: str) -> None:
        """Never over a file that is there."""
        path = Path(name).expanduser()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(self.history.as_json() if path.suffix == ".json" else self.history.as_markdown())
        except OSError as error:
            self._note(f"cannot write {name or 'without a name'}: {error.strerror}; write /save FILE, with a new name")

    def _note(self, text: str) -> None:
        self._screen.note(text)

    def _open(self) -> SyncAnswers:
        target = self._client.target
        self._answers = self._session.enter_context(
            self._client.conversation(
                positions=POSITIONS,
                sampling=replace(target.sampling, **self._options.sampling),
                **self._options.conversation,
            )
        )
        return self._answers

