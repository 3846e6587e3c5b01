"""What of an answer may be printed for good while it is still being written."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dsd_client.chat_screen import TerminalScreen
from dsd_client.markdown_blocks import settled, with_line_breaks
from dsd_client.painting import harmless
from dsd_client.results import Chunk, Token
from dsd_core.decoding.events import Origin


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("one", ""),
        ("one\ntwo\n", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\ntwo\n \nthree", "one\n\ntwo\n \n"),
        ("```\ncode\n\nmore\n", ""),
        ("```\ncode\n\nmore\n```\n\nafter", "```\ncode\n\nmore\n```\n\n"),
        ("````\n```\n\n````\n", ""),
        ("~~~\n```\n\n~~~\n\n", "~~~\n```\n\n~~~\n\n"),
        ("```\n``` no end\n\n", ""),
    ],
)
def test_blocks(text: str, whole: str) -> None:
    assert text[: settled(text)] == whole


@given(st.lists(st.sampled_from(["\n", "\n\n", "```", "~~~", "a", " ", "# ", "- "])).map("".join), st.text("a\n`"))
def test_what_is_settled_stays_settled(text: str, more: str) -> None:
    assert settled(text + more) >= settled(text)


def test_line_breaks_are_kept_but_for_code() -> None:
    assert with_line_breaks("a\nb\n```\nc\nd\n```\ne") == "a  \nb  \n```\nc\nd\n```\ne  "


TEXT = "# Shells\n\nMia has **12**.\nShe finds 7.\n\n```\nx = 1\n\ny = 2\n```\n\n" + "and so on\n" * 40 + "the end"


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_streamed_answer_is_shown_whole_and_once(step: int) -> None:
    """However it comes, and longer than the terminal is high."""
    console = Console(file=io.StringIO(), force_terminal=False, width=60, height=10)
    with TerminalScreen(console).answering() as show:
        for at in range(0, len(TEXT), step):
            show(Chunk((Token(1, TEXT[at : at + step], Origin.ACCEPTED),), ("a:1",)))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for line in ("Shells", "Mia has 12.", "She finds 7.", "x = 1", "y = 2", "the end"):
        assert shown.count(line) == 1
    assert shown.count("and so on") == 40


def test_a_model_does_not_steer_the_terminal() -> None:
    assert harmless("a\x1b[2Jb\x9b2Jc\td\ne\x7f") == "a[2Jb2Jc\td\ne"
