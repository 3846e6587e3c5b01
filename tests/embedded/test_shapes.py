from pathlib import Path

import torch

from dsd_core.embedded import TARGET
from dsd_core.embedded.shapes import cut_out, export, load_model, new_model, target_config
from dsd_core.embedded.vocabulary import load_tokenizer


def test_a_cut_out_drafter_has_the_first_and_the_last_layer() -> None:
    target = new_model(target_config(), seed=0)
    drafter = cut_out(target)
    for layer, source in ((0, 0), (1, 7)):
        ours, theirs = drafter.model.layers[layer], target.model.layers[source]
        assert torch.equal(ours.mlp.up_proj.weight, theirs.mlp.up_proj.weight)
    assert torch.equal(drafter.lm_head.weight, target.model.embed_tokens.weight)


def test_an_export_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    model = cut_out(new_model(target_config(), seed=0))
    (tmp_path / "drafter").mkdir()
    (tmp_path / "drafter" / "stale").touch()
    export(model, load_tokenizer(TARGET), tmp_path / "drafter")
    assert [path.name for path in tmp_path.iterdir()] == ["drafter"]
    assert not (tmp_path / "drafter" / "stale").exists()
    loaded = load_model(tmp_path / "drafter")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.bfloat16().float())
