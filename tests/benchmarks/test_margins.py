"""The tolerance of audits, measured over next to nothing."""

import json
from pathlib import Path

import pytest

from benchmarks import margins
from dsd_core.decoding.choice.audit import AUDIT_TOLERANCE_NATS


async def test_margins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await margins.main(["--blocks", "100", "--dtypes", "bf16", "--out", str(tmp_path)])
    found, *_ = json.loads((tmp_path / "margins.json").read_text())
    assert found["dtype"] == "bfloat16"
    assert sum(found["blocks"].values()) >= 100
    assert found["tolerance"] == AUDIT_TOLERANCE_NATS["bfloat16"]
    assert found["most"] == max([0.0, *found["behind"]])
    assert "that differ" in capsys.readouterr().out


def test_frames_cover_a_text_once() -> None:
    for frames in (margins._uneven(512, margins.Random(1)), margins._even(512)):
        assert [place for frame in frames for place in frame] == list(range(512))
    assert {len(frame) for frame in margins._uneven(10_000, margins.Random(2))} == set(range(1, 17))
