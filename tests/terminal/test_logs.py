"""One line a record: for people, or as JSON."""

import json
import logging
from collections.abc import Iterator

import pytest

from dsd_core import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # or pytest's own would be closed
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(capsys: pytest.CaptureFixture[str], **how: object) -> list[str]:
    logs.configure(**how)  # type: ignore[arg-type]
    log = logging.getLogger("dsd_node.test")
    for say in (log.debug, log.info, log.warning):
        say("round %d of %s", 3, "9abc")
    return capsys.readouterr().err.splitlines()


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(logged(capsys, verbose=True)) == 3
    assert len(logged(capsys)) == 2
    assert len(logged(capsys, quiet=True)) == 1


def test_lines_for_people_have_no_colours_beyond_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    info, warning = logged(capsys)
    assert "round 3 of 9abc" in info
    assert "dsd_node.test" in info
    assert "warning" in warning
    assert "\x1b" not in info


def test_lines_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    info, warning = map(json.loads, logged(capsys, log_format="json"))
    assert info.pop("timestamp").endswith("Z")
    assert info == {"event": "round 3 of 9abc", "level": "info", "logger": "dsd_node.test"}
    assert warning["level"] == "warning"


@pytest.mark.parametrize("log_format", ["pretty", "json"])
def test_a_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    logs.configure(log_format=log_format)

    def fail(prompt: str) -> None:
        raise ValueError("no")

    try:
        fail("my " + "secret")
    except ValueError:
        logging.getLogger("dsd_node.test").exception("a bug")
    said = capsys.readouterr().err
    assert "ValueError: no" in said
    assert "my secret" not in said
