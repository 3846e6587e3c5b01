"""`dsd-client chat` in a terminal, and in a pipe."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsd_client.local_swarm import LocalSwarm
from tests.conftest import TinyModel
from tests.end_to_end.conftest import SECONDS, Commands, ended

pty = pytest.importorskip("pty")

IN_A_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A person at a terminal: types, and reads until something appears."""

    def __init__(self, *arguments: str, kind: str = "dumb", **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_A_TERMINAL, sys.executable, "-m", "dsd_client", "chat", *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env=os.environ | {"TERM": kind, "PROMPT_TOOLKIT_NO_CPR": "1"} | environment,
        )  # fmt: skip
        os.close(slave)
        self._unread = ""

    def read_until(self, pattern: str, seconds: float = SECONDS) -> str:
        """What appeared up to the end of the first match."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self._unread)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self._unread!r}"
            self._read(deadline - time.monotonic())
        seen, self._unread = self._unread[: found.end()], self._unread[found.end() :]
        return seen

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")
        self.read_until(re.escape(line.strip()) + "\r?\n")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def press_ctrl_c(self) -> None:
        self.press("\x03")

    def wait(self) -> int:
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.1)
        return self.process.wait(1)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)

    def _read(self, seconds: float) -> None:
        if select.select([self._master], [], [], min(seconds, 1.0))[0]:
            try:
                self._unread += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                time.sleep(0.05)


@pytest.fixture
def terminal(join: list[str]) -> Iterator[Terminal]:
    terminal = Terminal(*join, "--max-new-tokens", "25", "--system", "be kind")
    yield terminal
    terminal.close()


@pytest.fixture
def slow_terminal(join: list[str]) -> Iterator[Terminal]:
    terminal = Terminal(*join, "--max-new-tokens", "400", "--speculation", "off")
    yield terminal
    terminal.close()


def test_a_chat(terminal: Terminal) -> None:
    terminal.read_until("/help for help")
    terminal.read_until("> ")
    terminal.type("/stats")
    assert "no answer yet" in terminal.read_until("\n> ")

    terminal.type("hello there")
    first = terminal.read_until("\n> ")
    assert len(first.strip("\r\n> ")) > 3
    terminal.type("/stats")
    [tokens, frames] = re.search(r"\[(\d+) tokens in .* (\d+) frames", terminal.read_until("\n> ")).groups()  # type: ignore[union-attr]
    assert 0 < int(tokens) <= 25
    assert int(frames) > 0

    terminal.type("/help")
    listed = terminal.read_until("\n> ")
    for command in ("/help", "/clear", "/system", "/stats", "/exit", "Ctrl-C"):
        assert command in listed
    terminal.type("/nonsense")
    assert "There is no /nonsense" in terminal.read_until("\n> ")
    terminal.type("")
    terminal.read_until("> ")

    # The same question in the same place gets the same answer; after another system text it does not.
    terminal.type("/clear")
    terminal.read_until("> ")
    terminal.type("hello there")
    assert terminal.read_until("\n> ") == first
    terminal.type("/system be brief, or silent")
    terminal.read_until("> ")
    terminal.type("hello there")
    assert terminal.read_until("\n> ") != first

    terminal.type("/exit")
    assert terminal.wait() == 0


def test_ctrl_c_stops_an_answer_and_not_the_program(slow_terminal: Terminal) -> None:
    terminal = slow_terminal
    terminal.read_until("> ")
    for _ in range(2):
        terminal.type("tell me all")
        assert "\n> " not in terminal.read_until("(?s).{20}")  # some of it comes before the rest
        terminal.press_ctrl_c()
        seen = terminal.read_until("\n> ", seconds=10)
        assert "[stopped]" in seen
        assert "Traceback" not in seen
    time.sleep(0.3)  # a signal just before Python's readline waits is noticed with the next key only
    terminal.press_ctrl_c()
    assert "/exit or Ctrl-D to leave" in terminal.read_until("\n> ")
    terminal.type("/stats")
    assert 0 < int(re.search(r"\[(\d+) tokens", terminal.read_until("\n> "))[1]) < 400  # type: ignore[index]
    terminal.press("\x04")
    assert terminal.wait() == 0


@pytest.fixture
def good_terminal(join: list[str], tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(*join, "--max-new-tokens", "25", "--data-dir", str(tmp_path / "data"), kind="xterm-256color")
    yield terminal
    terminal.close()


READY = r"\x1b\[\?2004h(?s:.*?)\x1b\[\?25h"
"""The editor takes pastes, and shows its cursor."""


def test_a_chat_in_a_good_terminal(good_terminal: Terminal, tmp_path: Path) -> None:
    terminal = good_terminal
    assert "can read what you write" in terminal.read_until("/help for help")
    terminal.read_until(READY)
    terminal.press("\x1b[200~hello\r\nthere\x1b[201~")  # pasted: two lines, and not yet sent
    terminal.read_until("there")
    terminal.press("\r")
    terminal.read_until(r"25 tokens · [\d.]+ tokens/s · .*2 peers(?s:.*)25 tokens · [\d.]+ tokens/s · .*2 peers")
    terminal.read_until(READY)

    terminal.press("/colors\r")
    terminal.read_until(READY)
    terminal.press("once more\r")
    assert "\x1b[1;36m" in terminal.read_until("accepted drafts")
    terminal.read_until(READY)

    terminal.press(f"/save {tmp_path / 'said.json'}\r")
    terminal.read_until(READY)
    terminal.press(f"/save {tmp_path / 'said.json'}\r")
    terminal.read_until("File exists")
    terminal.read_until(READY)
    said = json.loads((tmp_path / "said.json").read_text())["messages"]
    assert [message["content"] for message in said][::2] == ["hello\nthere", "once more"]

    terminal.press("/model /nowhere\r")
    terminal.read_until("(?s)/nowhere.* goes on")
    terminal.read_until(READY)
    terminal.press(f"/save {tmp_path / 'said.md'}\r")
    terminal.read_until(READY)
    assert "**assistant**" in (tmp_path / "said.md").read_text()

    terminal.press("\x04")
    assert terminal.wait() == 0
    history = tmp_path / "data" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0
    assert "once more" in history.read_text()


def test_no_color_in_a_good_terminal(join: list[str]) -> None:
    terminal = Terminal(*join, "--max-new-tokens", "5", kind="xterm-256color", NO_COLOR="1")
    try:
        terminal.read_until(READY)
        terminal.press("/colors\r")
        terminal.read_until(READY)
        terminal.press("hello\r")
        assert not re.search(r"\x1b\[[0-9;]*3[0-7]", terminal.read_until("the target's own>", seconds=20))
    finally:
        terminal.close()


def test_a_chat_in_a_pipe(commands: Commands, join: list[str]) -> None:
    chat = commands.start("dsd-client", "chat", *join, "--max-new-tokens", "12", stdin=subprocess.PIPE)
    out, err = chat.communicate("hello\n/stats\n", timeout=SECONDS)
    assert chat.returncode == 0
    assert out.endswith("\n")
    assert "/help" not in out
    assert ">" not in out[:2]
    assert "tokens in" in err
    assert "Traceback" not in err


def test_a_chat_that_may_accept_adaptively_is_exact_where_nothing_is_far(
    commands: Commands, join: list[str], drafter: TinyModel
) -> None:
    """On loopback there is no latency to hide, and the chat says so; the texts are those of an exact one."""

    def said(*acceptance: str) -> tuple[str, str]:
        given = [*join, "--drafter", str(drafter), "--max-new-tokens", "25", "--temperature", "0", *acceptance]
        chat = commands.start("dsd-client", "chat", *given, stdin=subprocess.PIPE)
        out, err = chat.communicate("hello\nand then\n/stats\n", timeout=SECONDS)
        assert chat.returncode == 0, err
        return out, err

    adaptive, about = said("--acceptance", "adaptive", "--tolerance", "20")
    assert adaptive == said()[0]
    assert "exact acceptance: there is no latency to hide" in about


def test_nodes_that_go_away_do_not_end_a_chat(join: list[str], nodes: LocalSwarm, commands: Commands) -> None:
    """What was said is kept, and the program goes on; here the peers were never there."""
    chat = commands.start("dsd-client", "chat", "--join", "127.0.0.1:1", "--model", join[-1])
    assert ended(chat).code == 3
