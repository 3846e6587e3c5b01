"""Telling accepted drafts from the target's own tokens."""

from rich.console import Console
from rich.text import Text

from dsd_client.results import Token
from dsd_core.decoding.events import Origin

_STYLES = {
    Origin.ACCEPTED: "green",
    Origin.RELAXED: "underline magenta",
    Origin.RECOVERED: "bold yellow",
    Origin.BONUS: "bold yellow",
}
_BRACKETS = {Origin.RELAXED: "~{}~", Origin.RECOVERED: "<{}>", Origin.BONUS: "<{}>"}
LEGEND = Text.assemble(("accepted drafts", "green"), ", ", ("the target's own", "bold yellow"))
PLAIN_LEGEND = Text("accepted drafts, <the target's own>")


def show(console: Console, tokens: tuple[Token, ...]) -> None:
    """Print tokens as they come: in colour, or, where there is none, the target's own in <> and relaxed ones in ~~."""
    for token in tokens:
        if console.color_system is not None:
            console.print(Text(token.text, style=_STYLES[token.origin]), end="", soft_wrap=True)
        else:
            console.print(Text(_bracketed(token)), end="", soft_wrap=True)


def legend(console: Console) -> Text:
    return LEGEND if console.color_system is not None else PLAIN_LEGEND


def _bracketed(token: Token) -> str:
    bare = token.text.strip()
    form = _BRACKETS.get(token.origin)
    return token.text.replace(bare, form.format(bare), 1) if form and bare else token.text
