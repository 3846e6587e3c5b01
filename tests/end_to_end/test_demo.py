"""`dsd-client demo`: it shows what it promises, and leaves nothing behind, whenever it is told to stop."""

import json
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from dsd_core import embedded
from tests.end_to_end.conftest import SECONDS, Commands, ended


def _is_whole(directory: Path) -> bool:
    try:
        json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return (directory / "model.safetensors").exists() and (directory / "tokenizer.json").exists()


pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc"),
    pytest.mark.skipif(
        not (_is_whole(embedded.TARGET) and _is_whole(embedded.DRAFTER)), reason="the embedded pair is not there"
    ),
]


def nothing_left(commands: Commands, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while commands.left_behind() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not commands.left_behind()


def test_the_demo_answers_and_compares(commands: Commands) -> None:
    found = commands.run("dsd-client", "demo")
    assert found.code == 0, found
    assert "Traceback" not in found.err
    for column in ("speculation", "tokens/s", "acceptance", "frames", "sent", "received", "same text"):
        assert column in found.out
    rows = {cells[0]: cells for line in found.out.splitlines() if (cells := re.findall(r"[\w.%/-]+", line))}
    assert {"off", "blocking"} <= set(rows)
    assert len(re.findall(r"layers \d:\d +127\.0\.0\.1:\d+ +pid \d+", found.out)) == 3
    assert float(rows["off"][1]) > 0
    assert rows["off"][-1] == rows["blocking"][-1] == "yes"
    assert nothing_left(commands)


@pytest.mark.parametrize(
    ("sign", "pause"),
    [("Starting", 0.0), ("Starting", 3.0), ("pid", 0.0), ("Answer:", 1.0)],
    ids=lambda part: str(part),
)
def test_ctrl_c_leaves_nothing_behind(commands: Commands, sign: str, pause: float) -> None:
    demo = commands.start("dsd-client", "demo", bufsize=0)
    assert demo.stdout is not None
    shown = ""
    deadline = time.monotonic() + SECONDS
    while sign not in shown and time.monotonic() < deadline:
        shown += demo.stdout.readline() if sign != "Answer:" else demo.stdout.read(1)
    time.sleep(pause)
    demo.send_signal(signal.SIGINT)
    found = ended(demo)
    assert found.code == 130
    assert "Traceback" not in found.err
    assert nothing_left(commands), commands.left_behind()
