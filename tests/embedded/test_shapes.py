from pathlib import Path

import torch

from dsd_core.embedded import TARGET
from dsd_core.embedded.shapes import drafter_config, export, load_model, narrowed, new_model, target_config
from dsd_core.embedded.vocabulary import load_tokenizer


def test_a_narrowed_drafter_keeps_what_tells_tokens_apart() -> None:
    target = new_model(target_config(), seed=0)
    with torch.no_grad():  # an embedding that has no more directions than the drafter
        flat = target.model.embed_tokens.weight[:, : drafter_config().hidden_size]
        target.model.embed_tokens.weight.copy_(torch.cat([flat, flat], dim=1))
    ours, theirs = narrowed(target).lm_head.weight, target.lm_head.weight
    assert torch.allclose(torch.cdist(ours[:64], ours[:64]), torch.cdist(theirs[:64], theirs[:64]), atol=1e-3)


def test_an_export_replaces_the_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    model = new_model(drafter_config(), seed=0)
    (tmp_path / "drafter").mkdir()
    (tmp_path / "drafter" / "stale").touch()
    export(model, load_tokenizer(TARGET), tmp_path / "drafter")
    assert [path.name for path in tmp_path.iterdir()] == ["drafter"]
    assert not (tmp_path / "drafter" / "stale").exists()
    loaded = load_model(tmp_path / "drafter")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.bfloat16().float())
