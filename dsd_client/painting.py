"""Telling accepted drafts from the target's own tokens."""

from rich.console import Console
from rich.text import Text

from dsd_client.results import Token
from dsd_core.decoding.events import Origin

_STYLES = {
    Origin.ACCEPTED: "green",
    Origin.RELAXED: "underline magenta",
    Origin.RECOVERED: "bold yellow",
    Origin.BONUS: "bold cyan",
}
_BRACKETS = {Origin.RELAXED: "~{}~", Origin.RECOVERED: "<{}>", Origin.BONUS: "<{}>"}
_NAMES = {
    Origin.ACCEPTED: "accepted drafts",
    Origin.RELAXED: "relaxed",
    Origin.RECOVERED: "corrected",
    Origin.BONUS: "the target's own",
}
LEGEND = Text(", ").join(Text(name, _STYLES[origin]) for origin, name in _NAMES.items())
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}
PLAIN_LEGEND = Text("accepted drafts, <the target's own>")


def show(console: Console, tokens: tuple[Token, ...]) -> None:
    """Print tokens as they come: in colour, or, where there is none, the target's own in <> and relaxed ones in ~~."""
    for token in tokens:
        if _has_colors(console):
            console.print(Text(harmless(token.text), style=_STYLES[token.origin]), end="", soft_wrap=True)
        else:
            console.print(Text(harmless(_bracketed(token))), end="", soft_wrap=True)


def legend(console: Console) -> Text:
    return LEGEND if _has_colors(console) else PLAIN_LEGEND


def harmless(text: str) -> str:
    """Without what would steer the terminal: whoever serves a model may make it say anything."""
    return text.translate(_CONTROLS)


def _has_colors(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _bracketed(token: Token) -> str:
    bare = token.text.strip()
    form = _BRACKETS.get(token.origin)
    return token.text.replace(bare, form.format(bare), 1) if form and bare else token.text
