"""Every benchmark of modes, with next to nothing to measure: real processes, links, tables and files."""

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import adaptive_speed, communication, first_token, gateway, gpu_like, law, own_machines, real_pair, table1, tls
from dsd_client.comparison import MODES

TINY = ["--prompts", "2", "--tokens", "8", "--plain-tokens", "4", "--repeats", "1"]


def cells(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    assert path.with_suffix(".png").stat().st_size > 1000
    found = json.loads(path.read_text())["cells"]
    return {cell: comparison["figures"] for cell, comparison in found.items()}


async def test_gpu_like(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await gpu_like.main([*TINY, "--stages", "2", "--delays", "1", "--lookahead", "2", "--out", str(tmp_path)])
    found = cells(tmp_path / "gpu_like.json")
    assert list(found) == ["N=2 1 ms", "N=2 1 ms, p = 0", "N=2 1 ms, wrong"]
    for figures in found.values():
        assert list(figures) == [mode.name for mode in MODES]
        assert all(figure["same_text"] for figure in figures.values())
        assert figures["off"]["ms_per_token"] > 2 * 5.25 + 3 * 1
    assert found["N=2 1 ms, wrong"]["blocking"]["accepted_per_token"] == 0
    assert "N=2 1 ms, p = 0" in capsys.readouterr().out


async def test_real_pair(tmp_path: Path) -> None:
    prompts = tmp_path / "some.jsonl"
    prompts.write_text('{"question": "What is 2 + 3?"}\n{"prompt": "def add(a, b):"}\n')
    await real_pair.main([*TINY, "--file", str(prompts), "--stages", "1", "--delays", "0", "--out", str(tmp_path)])
    found = cells(tmp_path / "real_pair_some.json")
    assert list(found) == ["N=1 0 ms"]
    assert all(figure["same_text"] for figure in found["N=1 0 ms"].values())


async def test_own_machines(tmp_path: Path) -> None:
    await own_machines.main([*TINY, "--stages", "2", "--delays", "1", "--lookahead", "2", "--out", str(tmp_path)])
    [figures] = cells(tmp_path / "own_machines_examples.json").values()
    assert all(figure["same_text"] for figure in figures.values())
    assert figures["streaming"]["acceptance"] > 0.5, "the stages choose what the target would, which the drafter was trained on"


async def test_law(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await law.main([*TINY, "--kinds", "gpu", "--stages", "2", "--delays", "1", "--out", str(tmp_path)])
    assert list(cells(tmp_path / "law.json")) == ["gpu N=2 1 ms"]
    predictions = json.loads((tmp_path / "law.json").read_text())["predictions"]
    assert [prediction["mode"] for prediction in predictions] == ["linear", "streaming"]
    assert "simulated" in capsys.readouterr().out


async def test_table1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await table1.main([*TINY, "--rows", "5", "--lanes", "2", "--lookahead", "3", "--out", str(tmp_path)])
    [figures] = cells(tmp_path / "table1.json").values()
    assert list(figures) == ["off", "blocking", "DSI", "streaming"]
    assert all(figure["same_text"] for figure in figures.values())
    assert "clean SI / DSI" in capsys.readouterr().out


async def test_adaptive_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*TINY, "--prompts", "2", "--tokens", "40", "--stages", "2", "--delays", "2", "--lookahead", "3"]
    await adaptive_speed.main([*given, "--tolerances", "20", "--latency-factor", "1", "--out", str(tmp_path)])
    found = cells(tmp_path / "adaptive_speed.json")
    assert list(found) == ["2 ms, made-up word problems", "2 ms, wrong drafter"]
    exact = ["off", "blocking", "linear", "streaming"]
    for figures in found.values():
        assert list(figures) == [*exact, *(f"{mode}, 20 nats" for mode in exact[1:])]
        assert all(figures[mode]["same_text"] and figures[mode]["nats_per_token"] == 0 for mode in exact)
        assert all(figure["latency_factor"] == 1 for mode, figure in figures.items() if mode not in exact)
    right, wrong = found.values()
    assert any(figure["relaxed_per_token"] > 0 for figure in right.values())
    assert wrong["linear"]["accepted_per_token"] < 0.2 < right["linear"]["accepted_per_token"]
    quality = json.loads((tmp_path / "adaptive_speed.json").read_text())["quality"]
    assert quality["2 ms, made-up word problems"]["linear"]["loss"] == 0
    printed = capsys.readouterr().out
    assert "ms in the network" in printed.replace("\n", " ") or "network" in printed


async def test_communication(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--prompts", "1", "--stages", "2", "--ratios", "5", "--rate", "1"]
    await communication.main([*TINY, "--tokens", "19", *given, "--out", str(tmp_path)])
    assert list(cells(tmp_path / "communication.json")) == ["N=2, t1 = 5 t0"]
    [traffic] = json.loads((tmp_path / "communication.json").read_text())["traffic"].values()
    assert traffic["plain_traversals"] == 1
    assert traffic["block_traversals"] < 0.3, "a drafter that is always right needs one for nine tokens"
    assert traffic["plain_network_ms"] > 3 * 10 > traffic["block_network_ms"]
    assert "N=2, t1 = 5 t0" in capsys.readouterr().out


async def test_tls(capsys: pytest.CaptureFixture[str]) -> None:
    await tls.main(["--tokens", "4", "--repeats", "1", "--stages", "1"])
    assert "TLS costs" in capsys.readouterr().out


async def test_first_token(capsys: pytest.CaptureFixture[str]) -> None:
    await first_token.main(["--nodes", "1", "--words", "8", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "transformers" in printed
    assert re.search(r"^│ 1 +│ [\d.]+ +│ [\d.]+ +│ [\d.]+ +│$", printed, re.MULTILINE), "one node, and what it took"


@pytest.mark.skipif(sys.platform != "linux", reason="processor time is read from /proc")
async def test_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    await gateway.main(["--tokens", "4", "--repeats", "1"])
    printed = capsys.readouterr().out
    assert "OpenAI" in printed
    assert "for each further chunk" in printed
