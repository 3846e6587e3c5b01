"""A name that is nearly right is answered with the right one."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from dsd_core.errors import ModelNotFound
from dsd_core.model.nearest import advice, cached_models
from dsd_core.model.source import resolve


def test_the_nearest_is_named_whatever_its_case() -> None:
    known = ["Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"]
    assert advice("qwen/qwen3-8b", known, "look again") == "did you mean Qwen/Qwen3-8B?"
    for name in ("meta-llama/other", "Qwen/Qwen3-8B@of-another-revision"):
        assert advice(name.partition("@")[0], known[:1], "look again") == "look again"


def test_a_directory_beside(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text("{}")
    (tmp_path / "targets").mkdir()  # no model
    with pytest.raises(ModelNotFound, match=rf"did you mean {tmp_path / 'target'}\?"):
        resolve(str(tmp_path / "tarket"))
    with pytest.raises(ModelNotFound, match="check the path"):
        resolve(str(tmp_path / "zzz" / "q"))


def test_a_model_that_was_fetched_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "models--Qwen--Qwen3-8B").mkdir()
    assert cached_models() == ["Qwen/Qwen3-8B"]
    with pytest.raises(ModelNotFound, match=r"did you mean Qwen/Qwen3-8B\?"):
        resolve("Qwen/Qwen3-8")
