"""Markdown that is still being written: what of it will not change any more."""

import re

_FENCE = re.compile(r" {0,3}(```+|~~~+)")


def settled(text: str) -> int:
    """How much of `text`, in characters, is whole blocks. A block ends with an empty line outside a code fence.

    What follows may go on with more lines, but never changes how these blocks look.
    """
    end = at = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        at += len(line)
        fence = _fence_after(line, fence)
        if not fence and line.endswith("\n") and not line.strip():
            end = at
    return end


def with_line_breaks(text: str) -> str:
    """The same Markdown, but what was written on two lines stays on two lines. Models mean their line breaks."""
    lines, fence = [], ""
    for line in text.splitlines():
        was_open, fence = bool(fence), _fence_after(line, fence)
        lines.append(line if was_open or fence or not line.strip() else f"{line}  ")
    return "\n".join(lines)


def _fence_after(line: str, fence: str) -> str:
    """The fence that is open behind a line, "" for none. One is closed by its own kind, at least as long."""
    found = _FENCE.match(line)
    if found is None:
        return fence
    if not fence:
        return found[1]
    closes = found[1].startswith(fence) and not line.strip().strip(fence[0])
    return "" if closes else fence
