"""`dsd-client bench`, as a shell sees it."""

import json
from pathlib import Path

from dsd_client.comparison import MODES
from tests.conftest import TinyModel
from tests.end_to_end.conftest import Commands

QUICK = ["--max-new-tokens", "12", "--repeats", "1"]


def test_all_modes_side_by_side(commands: Commands, join: list[str], drafter: TinyModel, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"question: how many"\n{"question": "the quick brown"}\n')
    given = [*join, "--drafter", str(drafter), "--prompts", str(prompts), *QUICK, "--temperature", "0.8"]
    found = commands.run("dsd-client", "bench", *given, "--out", str(tmp_path / "out"))
    assert found.code == 0, found.err
    lines = [line for line in found.out.splitlines() if "yes" in line]
    assert len(lines) == len(MODES)
    assert all(mode.name in line for mode, line in zip(MODES, lines, strict=True))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bench.json", "bench.png"}


def test_as_json(commands: Commands, join: list[str]) -> None:
    found = commands.run("dsd-client", "bench", *join, *QUICK, "--limit", "1", "--lookahead", "2", "--json")
    assert found.code == 0, found.err
    figures = json.loads(found.out)["cells"][""]["figures"]
    assert [(mode.name, figures[mode.name]["tokens"]) for mode in MODES] == [(mode.name, 12) for mode in MODES]
    assert figures["blocking"]["lookahead"] == 2


def test_a_file_without_prompts_is_refused(commands: Commands, join: list[str], tmp_path: Path) -> None:
    found = commands.run("dsd-client", "bench", *join, "--prompts", str(tmp_path / "none"))
    assert "none cannot be read" in found.assert_failed(2)
