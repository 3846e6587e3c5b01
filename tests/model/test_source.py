"""Finding a model in a directory, and refusing what is not one that we serve."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from dsd_core.errors import DsdError, InvalidWeights, ModelNotFound, UnsupportedModel
from dsd_core.model.source import resolve
from dsd_core.model.span import Span
from tests.model.conftest import FAMILIES, SHAPE, VOCABULARY, MakeTiny, Tiny, TreeSession, assert_same_scores


@pytest.fixture
def directory(llama: Tiny, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(llama.directory, tmp_path / "copy"))


def change_config(directory: Path, **settings: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def refusal(directory: Path, error: type[DsdError]) -> str:
    with pytest.raises(error) as caught:
        resolve(str(directory))
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message  # what is wrong; what to do
    return message


def test_a_directory(llama: Tiny) -> None:
    source = llama.source
    assert source.name == str(llama.directory)
    assert (source.num_layers, source.hidden_size, source.vocab_size) == (4, 32, VOCABULARY)
    assert source.config.model_type == "llama"
    assert source.tensors["model.norm.weight"].shape == (32,)


def test_the_home_directory_is_expanded(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(llama.directory.parent))
    assert resolve(f"~/{llama.directory.name}").manifest_hash == llama.source.manifest_hash


def test_the_longest_context(make_tiny: MakeTiny, saved_families: dict[str, Tiny]) -> None:
    assert saved_families["olmo"].source.max_positions == 256
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
    assert make_tiny("llama", rope_parameters=rope).source.max_positions == 768
    assert saved_families["gemma3_text"].source.max_positions == 256


def test_the_manifest_is_equal_for_equal_models(llama: Tiny, directory: Path) -> None:
    change_config(directory, transformers_version="0.1", _name_or_path="elsewhere", dtype="float16", use_cache=False)
    assert resolve(str(directory)).manifest_hash == llama.source.manifest_hash
    assert len(llama.source.manifest_hash) == 64


def test_the_manifest_is_equal_for_one_file_and_for_shards(make_tiny: MakeTiny) -> None:
    shards = make_tiny("llama", save={"max_shard_size": "20KB"})
    assert shards.source.manifest_hash == make_tiny("llama").source.manifest_hash


def test_the_manifest_tells_models_apart(llama: Tiny, directory: Path, make_tiny: MakeTiny) -> None:
    change_config(directory, rms_norm_eps=1e-4)
    hashes = [resolve(str(directory)).manifest_hash, make_tiny("llama", dtype=torch.bfloat16).source.manifest_hash]
    assert len({llama.source.manifest_hash, *hashes}) == 3


def test_no_such_directory(tmp_path: Path) -> None:
    assert "there is no model directory" in refusal(tmp_path / "nowhere", ModelNotFound)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "there is no model directory" in refusal(tmp_path / "model.gguf", ModelNotFound)


def test_an_empty_directory(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path, ModelNotFound)


def test_pickled_weights_are_never_opened(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert "has no safetensors weights" in refusal(directory, InvalidWeights)


def test_truncated_weights(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "ends inside the tensor" in refusal(directory, InvalidWeights)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_config_that_is_not_a_json_object(directory: Path, text: str) -> None:
    (directory / "config.json").write_text(text)
    assert "config.json of" in refusal(directory, InvalidWeights)


@pytest.mark.parametrize("model_type", ["mamba2", "qwen3_next", "gpt2", "bert", "", None])
def test_architectures_that_are_not_served(directory: Path, model_type: str | None) -> None:
    change_config(directory, model_type=model_type)
    message = refusal(directory, UnsupportedModel)
    assert f"{model_type!s}" in message
    assert "llama" in message


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "wide"},
        {"num_hidden_layers": None},
        {"num_attention_heads": 5},
    ],
)
def test_a_config_of_nonsense(directory: Path, settings: dict[str, Any]) -> None:
    change_config(directory, **settings)
    assert "does not describe a llama model" in refusal(directory, UnsupportedModel)


def test_a_rope_that_transformers_does_not_know(directory: Path) -> None:
    change_config(directory, rope_parameters={"rope_type": "spiral", "rope_theta": 1.0})
    with pytest.raises(UnsupportedModel, match="transformers cannot build this llama model"):
        Span.load(resolve(str(directory)), range(0, 1))


def test_quantized_weights(directory: Path) -> None:
    change_config(directory, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantized weights are not supported" in refusal(directory, UnsupportedModel)


@pytest.mark.parametrize("setting", [{"use_bidirectional_attention": True}, {"attn_logit_softcapping": 50.0}])
def test_settings_that_would_be_served_wrong(make_tiny: MakeTiny, setting: dict[str, Any]) -> None:
    tiny = make_tiny("gemma3_text")
    change_config(tiny.directory, **setting)
    refusal(tiny.directory, UnsupportedModel)


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": []},
        {"weight_map": {"w": 1}},
        {"weight_map": {"w": "../secret.safetensors"}},
        {"weight_map": {"w": "x.bin"}},
    ],
)
def test_an_index_that_names_strange_files(directory: Path, index: dict[str, Any]) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is malformed" in refusal(directory, InvalidWeights)


def test_code_that_comes_with_a_model_is_not_run(directory: Path) -> None:
    (directory / "evil.py").write_text("raise SystemExit('ran')")
    change_config(directory, auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    Span.load(resolve(str(directory)), range(0, 1))


def test_the_text_decoder_of_a_model_that_also_sees(tmp_path: Path, tokens: list[int]) -> None:
    torch.manual_seed(0)
    text = SHAPE | FAMILIES["gemma3_text"] | {"final_logit_softcapping": None}  # which the whole of it ignores
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision | images, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    source = resolve(str(tmp_path))
    assert source.config.model_type == "gemma3_text"
    _, scores = TreeSession([Span.load(source, range(0, 2)), Span.load(source, range(2, 4))]).feed_run(tokens, None)
    with torch.no_grad():
        expected = model(torch.tensor(tokens)[None]).logits[0]
    assert_same_scores(scores, expected)
