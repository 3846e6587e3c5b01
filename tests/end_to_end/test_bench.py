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


def test_adaptive_acceptance_against_the_exact_modes(
    commands: Commands, join: list[str], drafter: TinyModel, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"question": "how many shells", "answer": "#### 7"}\n')
    given = [*join, "--drafter", str(drafter), "--prompts", str(prompts), "--max-new-tokens", "24", "--repeats", "1"]
    given += ["--tolerances", "0,20", "--latency-factor", "1", "--out", str(tmp_path / "out"), "--json"]
    found = commands.run("dsd-client", "bench", "adaptive", *given)
    assert found.code == 0, found.err
    report = json.loads(found.out)
    figures, quality = report["cells"][""]["figures"], report["quality"][""]
    relaxed = [f"{mode}, {nats} nats" for mode in ("linear", "streaming") for nats in (0, 20)]
    rivals = [f"linear, {rule} {nats} nats" for rule in ("late", "fixed") for nats in (0, 20)]
    assert list(figures) == ["off", "linear", "streaming", *relaxed, *rivals]
    assert all(figures[mode]["same_text"] for mode in ("off", "linear", "streaming", relaxed[0], relaxed[2]))
    assert quality[relaxed[0]]["unchanged"] == 1
    assert quality[relaxed[1]] | {"times_faster": 1, "unchanged": 1} == {
        "times_faster": 1, "unchanged": 1, "right": 0, "loss": 0, "loss_bound": 1
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adaptive.json", "adaptive.png"}


def test_made_up_problems_are_not_for_every_target(commands: Commands, join: list[str]) -> None:
    found = commands.run("dsd-client", "bench", "adaptive", *join)
    assert "--prompts" in found.assert_failed(2)


def test_a_file_without_prompts_is_refused(commands: Commands, join: list[str], tmp_path: Path) -> None:
    found = commands.run("dsd-client", "bench", *join, "--prompts", str(tmp_path / "none"))
    assert "none cannot be read" in found.assert_failed(2)
