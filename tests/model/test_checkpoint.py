"""Where a span's parameters come from: prefixes, spellings, experts one by one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsd_core.errors import InvalidWeights
from dsd_core.model.source import resolve
from dsd_core.model.span import Span
from tests.model.conftest import Tiny, TreeSession, assert_same_scores

OpenSession = Callable[..., TreeSession]
Rename = Callable[[str], str]

SPELLINGS: list[tuple[str, Rename]] = [
    ("llama", lambda name: name.removeprefix("model.")),
    ("llama", lambda name: name if name == "lm_head.weight" else f"model.language_{name}"),
    ("llama", lambda name: f"language_model.{name}"),
    ("gpt_neox", lambda name: name.replace("lm_head", "embed_out")),
    (
        "mixtral",
        lambda name: (
            name.replace("block_sparse_moe", "mlp")
            .replace("w1", "gate_proj")
            .replace("w3", "up_proj")
            .replace("w2", "down_proj")
        ),
    ),
]


def resaved(tiny: Tiny, directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> str:
    directory.joinpath("config.json").write_text((tiny.directory / "config.json").read_text())
    save_file(change(load_file(tiny.directory / "model.safetensors")), directory / "model.safetensors")
    return str(directory)


@pytest.mark.parametrize(("family", "rename"), SPELLINGS)
def test_other_names(
    family: str,
    rename: Rename,
    saved_families: dict[str, Tiny],
    tmp_path: Path,
    open_session: OpenSession,
    tokens: list[int],
) -> None:
    tiny = saved_families[family]
    model = resaved(tiny, tmp_path, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    _, scores = open_session(resolve(model)).feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_that_are_stored_fused(
    family: str, saved_families: dict[str, Tiny], tmp_path: Path, open_session: OpenSession, tokens: list[int]
) -> None:
    tiny = saved_families[family]
    fused = {name: tensor.contiguous() for name, tensor in tiny.model.state_dict().items()}
    _, scores = open_session(resolve(resaved(tiny, tmp_path, lambda tensors: fused))).feed_run(tokens, None)
    assert_same_scores(scores, tiny.logits(tokens))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_a_missing_expert_is_named(family: str, saved_families: dict[str, Tiny], tmp_path: Path) -> None:
    tiny = saved_families[family]
    [gone] = [
        name for name in tiny.source.tensors if "layers.1." in name and ("experts.3.w3" in name or "experts.3.up" in name)
    ]
    model = resaved(tiny, tmp_path, lambda tensors: {name: tensors[name] for name in tensors if name != gone})
    with pytest.raises(InvalidWeights, match=f"lacks the tensor {gone}"):
        Span.load(resolve(model), range(1, 2))


def test_a_checkpoint_of_something_else(llama: Tiny, tmp_path: Path) -> None:
    model = resaved(llama, tmp_path, lambda tensors: {"weights": torch.ones(2)})
    with pytest.raises(InvalidWeights, match=r"has no tensor model\.embed_tokens\.weight"):
        Span.load(resolve(model), range(0, 1))
