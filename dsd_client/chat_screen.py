"""How a chat shows answers: as plain text wherever it goes, or as Markdown in a terminal."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.text import Text

from dsd_client import painting
from dsd_client.markdown_blocks import settled, with_line_breaks
from dsd_client.results import Chunk, Stats
from dsd_core.decoding.events import Origin

Show = Callable[[Chunk], None]

REFRESHES_PER_SECOND = 12.0
OWN_LINES = 2
"""Of the terminal, for the status line and the cursor below."""


class Screen(Protocol):
    """Where a chat's answers and notes go."""

    colors: bool
    """Whether tokens show where they came from."""

    def answering(self) -> AbstractContextManager[Show]:
        """One answer: what it yields shows a chunk. Interrupted or not, what was shown stays."""
        ...

    def answered(self, stats: Stats, peers: int) -> None:
        """Show how the answer came about."""
        ...

    def note(self, text: str) -> None:
        """Something of the chat's own."""
        ...


class PlainScreen:
    """Answers on stdout, byte for byte, and notes on stderr."""

    colors = False

    @contextmanager
    def answering(self) -> Iterator[Show]:
        console = Console(soft_wrap=True)
        try:
            yield lambda chunk: _paint(console, chunk) if self.colors else print(chunk.text, end="", flush=True)
        finally:
            print(flush=True)

    def answered(self, stats: Stats, peers: int) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class TerminalScreen:
    """Answers as Markdown while they come, each with a line of its figures; in plain colours where origins are shown."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.colors = False

    @contextmanager
    def answering(self) -> Iterator[Show]:
        if not self.colors:
            with _LiveMarkdown(self._console) as answer:
                yield answer.show
            return
        try:
            yield lambda chunk: _paint(self._console, chunk)
        finally:
            self._console.print()
            self._console.print(painting.legend(self._console), style="dim")

    def answered(self, stats: Stats, peers: int) -> None:
        judged = stats.accepted + stats.rejections
        self._console.print(_status(stats.new_tokens, stats.tokens_per_second, stats.accepted, judged, peers))

    def note(self, text: str) -> None:
        self._console.print(Text(text, "dim"), soft_wrap=True)


class _LiveMarkdown:
    """Whole blocks are printed once, above; only the last one is drawn anew, so nothing flickers and all can be scrolled."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console, transient=True, refresh_per_second=REFRESHES_PER_SECOND, vertical_overflow="visible"
        )
        self._text = ""
        self._printed = 0
        self._origins: Counter[Origin] = Counter()
        self._started = time.monotonic()

    def __enter__(self) -> "_LiveMarkdown":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._print_up_to(len(self._text))

    def show(self, chunk: Chunk) -> None:
        self._text += painting.harmless(chunk.text)
        self._origins.update(token.origin for token in chunk.tokens)
        self._print_up_to(settled(self._text))
        rest = Markdown(with_line_breaks(self._text[self._printed :]))
        self._live.update(_Tail(Group(rest, self._status(len(chunk.route)))))

    def _print_up_to(self, end: int) -> None:
        """A block is followed by an empty line, as Markdown has it."""
        blocks = self._text[self._printed : end].strip("\n")
        if blocks:
            ends = end == len(self._text) and not self._live.is_started
            self._console.print(Markdown(with_line_breaks(blocks)), end="" if ends else "\n")
            self._printed = end

    def _status(self, peers: int) -> Text:
        tokens = self._origins.total()
        accepted = self._origins[Origin.ACCEPTED] + self._origins[Origin.RELAXED]
        rate = tokens / max(time.monotonic() - self._started, 1e-3)
        return _status(tokens, rate, accepted, accepted + self._origins[Origin.RECOVERED], peers)


class _Tail:
    """The last lines of something, as many as the terminal has room for: more could not be taken back."""

    def __init__(self, content: Group) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._content, options, pad=False)
        for line in lines[-max(1, console.height - OWN_LINES) :]:
            yield from line
            yield Segment.line()


def _paint(console: Console, chunk: Chunk) -> None:
    painting.show(console, chunk.tokens)
    console.print(Text(painting.harmless(chunk.rest)), end="", soft_wrap=True)


def _status(tokens: int, tokens_per_second: float, accepted: int, judged: int, peers: int) -> Text:
    """Figures of an answer, on one line."""
    acceptance = [f"{accepted / judged:.0%} of drafts accepted"] if judged else []
    told = [f"{tokens} tokens", f"{tokens_per_second:.1f} tokens/s", *acceptance, f"{peers} peer{'s' * (peers != 1)}"]
    return Text(" · ".join(told), "dim", no_wrap=True, overflow="ellipsis")
