"""`dsd-client chat`: a conversation in the terminal."""

import sys
from contextlib import ExitStack, suppress
from dataclasses import replace

from dsd_client.chat_history import ChatHistory
from dsd_client.commands.generate import summary
from dsd_client.commands.options import AnswerOptions
from dsd_client.sync_client import SyncAnswers, SyncClient
from dsd_core.errors import DsdError, PromptTooLong, UsageError

POSITIONS = 4096
HELP = """\
/help           this
/clear          forget what was said
/system TEXT    what the model is told before the first turn; forgets what was said
/stats          figures of the last answer
/exit           leave, as Ctrl-D does
Ctrl-C stops an answer."""


def chat(options: AnswerOptions, system: str | None) -> None:
    """Read turns from stdin until it ends. Prompts and notes go to stderr where stdout is not the terminal's."""
    _edit_lines()
    with SyncClient(**options.client) as client:
        talk = _Talk(client, options, ChatHistory(client.target, system))
        _note(f"{client.target.name}. /help for help.")
        while (line := _read_line()) is not None:
            if not talk.take(line.strip()):
                break
        talk.close()


class _Talk:
    """The chat's state: what was said, and the session, which stays open between turns."""

    def __init__(self, client: SyncClient, options: AnswerOptions, history: ChatHistory) -> None:
        self._client = client
        self._options = options
        self._history = history
        self._session = ExitStack()
        self._answers: SyncAnswers | None = None

    def take(self, line: str) -> bool:
        """A turn, or a command. False to leave."""
        name, _, rest = line.partition(" ")
        match name:
            case "":
                pass
            case "/exit":
                return False
            case "/help":
                _note(HELP)
            case "/clear":
                self._history.forget()
            case "/system":
                self._history.forget()
                self._history.system = rest.strip() or None
            case "/stats":
                _note(summary(self._answers.result.stats) if self._answers else "There is no answer yet.")
            case _ if name.startswith("/"):
                _note(f"There is no {name}; /help lists what there is.")
            case _:
                self._turn(line)
        return True

    def close(self) -> None:
        """Close the session; the next turn opens another, and sends it all that was said."""
        self._answers = None
        self._session.close()

    def _turn(self, said: str) -> None:
        try:
            answers = self._answers or self._open()
        except KeyboardInterrupt:
            return _note("[stopped]")
        except DsdError as error:
            return _note(f"{error}. Say it again to try again.")
        try:
            self._answer(answers, said)
        except UsageError as error:
            self._history.forget_last_turn()
            _note(str(error))
        except PromptTooLong as error:
            self._history.forget_last_turn()
            _note(f"{error}; or /clear what was said")
        except DsdError as error:
            self._history.answered(error.text, list(error.token_ids))
            self.close()
            _note(f"\n{error}. Say something to try again; what was said is kept.")

    def _answer(self, answers: SyncAnswers, said: str) -> None:
        prompt = self._history.prompt(said)
        stop = (*self._options.stop, *self._history.stop)
        try:
            for chunk in answers.ask(prompt, max_new_tokens=self._options.max_new_tokens, stop=stop):
                print(chunk.text, end="", flush=True)
        except KeyboardInterrupt:
            _note(" [stopped]")
        print(flush=True)
        self._history.answered(answers.result.text, answers.result.token_ids)

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


def _read_line() -> str | None:
    """The next line, None at the end. Ctrl-C at the prompt empties the line."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return None
        except KeyboardInterrupt:
            _note("\n/exit or Ctrl-D to leave.")


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _edit_lines() -> None:
    """Arrow keys and history at the prompt, where Python has them."""
    with suppress(ImportError):
        import readline  # noqa: F401
