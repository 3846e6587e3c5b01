"""The two architectures, and how they are written as Hugging Face model directories."""

import json
import shutil
from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from dsd_core.embedded.vocabulary import END_ID, VOCAB_SIZE, save_tokenizer
from dsd_core.model.checksums import write_checksums

MAX_POSITIONS: Final = 4096


def target_config() -> Qwen3Config:
    """Eight layers, so that spans of one, two, four or eight nodes are even."""
    return _config(hidden_size=256, num_layers=8, intermediate_size=704)


def drafter_config() -> Qwen3Config:
    """Two layers, for one alone cannot look up what followed a word before; half as wide as the target, for at its width the
    head is two fifths of the weights that each token reads."""
    return _config(hidden_size=128, num_layers=2, intermediate_size=512)


def new_model(config: Qwen3Config, seed: int) -> Qwen3ForCausalLM:
    """A model of random weights."""
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config)


def narrowed(target: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """A drafter that starts from the main directions of the target's embedding; only distillation makes it talk."""
    drafter = new_model(drafter_config(), seed=0)
    embedding = target.model.embed_tokens.weight.detach()
    centred = embedding - embedding.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)  # [hidden, hidden], the main one first
    with torch.no_grad():
        drafter.model.embed_tokens.weight.copy_(centred @ directions[: drafter.config.hidden_size].T)
    return drafter


def load_model(folder: Path) -> Qwen3ForCausalLM:
    """The model of `folder`, in float32 and ready to answer."""
    model: Qwen3ForCausalLM = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model


def export(model: Qwen3ForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Replace `folder` by the model in bfloat16 and the tokenizer; a reader sees the old files or the new ones."""
    fresh = folder.with_name(f".{folder.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    half = Qwen3ForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.bfloat16().save_pretrained(fresh)
    (fresh / "model.safetensors").chmod(0o644)
    save_tokenizer(tokenizer, fresh)
    write_checksums(fresh)
    _replace(folder, fresh)


def _config(hidden_size: int, num_layers: int, intermediate_size: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
        pad_token_id=END_ID,
    )


def _replace(folder: Path, fresh: Path) -> None:
    generation = {"bos_token_id": END_ID, "eos_token_id": END_ID, "pad_token_id": END_ID, "do_sample": False}
    (fresh / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
