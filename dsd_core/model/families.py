"""The model families we serve, and how a family's config shrinks to a span of its layers.

The list is closed on purpose. A span cuts a model where no code of its own expects a cut, and a token tree needs
attention that an explicit mask controls completely, so each family here has passed the tests that compare spans and
trees with the whole model. Recurrent and hybrid families keep a state that no mask reaches: they are refused by name,
never served wrong.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from dsd_core.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Family:
    """The names that one architecture gives to the parts which a span keeps or drops."""

    embedding: str = "embed_tokens"
    norm: str = "norm"
    head: tuple[str, ...] = ("lm_head.weight",)
    """What checkpoints call the head's tensor, beside a prefix."""
    key_heads: str = "num_key_value_heads"
    """The setting that says how many heads keys and values have."""
    neutral: dict[str, float] = field(default_factory=dict)
    """Settings that the base model applies to its input, and their values where the input is already a hidden state."""


FAMILIES: dict[str, Family] = {
    "gemma3_text": Family(),
    "gpt_neox": Family(
        embedding="embed_in",
        norm="final_layer_norm",
        head=("lm_head.weight", "embed_out.weight"),
        key_heads="num_attention_heads",
    ),
    "granite": Family(neutral={"embedding_multiplier": 1.0}),
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(),
    "olmo": Family(),
    "phi3": Family(),
    "qwen2": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(),
    "starcoder2": Family(),
}

TEXT_DECODERS = {"gemma3": "gemma3_text"}
"""Models of several modalities whose text decoder is one of the families."""

LENGTH_DEPENDENT_ROPES = ("dynamic", "longrope")


def family_of(config: Any) -> Family:
    """The family of a text decoder's config. Raises UnsupportedModel, naming the architecture."""
    return FAMILIES[require_supported(config.model_type)]


def require_supported(model_type: object) -> str:
    """The text decoder's model type. Raises UnsupportedModel unless we serve it."""
    name = TEXT_DECODERS.get(str(model_type), str(model_type))
    if name not in FAMILIES:
        raise UnsupportedModel(f"the architecture {name!r} is not supported; choose one of {', '.join(FAMILIES)}")
    return name


def require_servable(config: Any) -> None:
    """Refuse, by name, the settings of a supported family that would be served wrong."""
    if getattr(config, "quantization_config", None):
        raise UnsupportedModel("quantized weights are not supported; choose a checkpoint in bf16, fp16 or fp32")
    if getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True):
        raise UnsupportedModel("the model attends to later tokens, so it cannot decode; choose a causal model")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise UnsupportedModel("attn_logit_softcapping is not supported; choose a model without it")


def span_config(config: Any, layers: range) -> Any:
    """The config of a model that consists of `layers` of the model of `config`, in order, and of nothing else."""
    shrunk = copy.deepcopy(config)
    shrunk.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        shrunk.layer_types = [config.layer_types[layer] for layer in layers]
    if hasattr(config, "mlp_only_layers"):
        shrunk.mlp_only_layers = [layer - layers.start for layer in layers if _is_dense(config, layer)]
        shrunk.decoder_sparse_step = 1
    if layers.start > 0:
        for name, value in family_of(config).neutral.items():
            setattr(shrunk, name, value)
    return shrunk


def _is_dense(config: Any, layer: int) -> bool:
    """Whether a layer of a mixture of experts has one plain MLP instead (the rule of transformers' decoder layers)."""
    return layer in config.mlp_only_layers or (layer + 1) % config.decoder_sparse_step != 0


def fixed_positions(config: Any) -> int | None:
    """How many positions keep their rotary frequencies, or None where the frequencies never change.

    Beyond that length these models recompute the frequencies of all keys, also of those in the cache, so a token's
    scores would depend on how the context was cut into frames. Until then they are exact.
    """
    lengths = [_original_length(config, rope) for rope in _ropes(config) if _is_length_dependent(rope)]
    return min(lengths, default=None)


def max_positions(config: Any) -> int:
    """The longest context that the model is made for."""
    limit = fixed_positions(config)
    if limit is not None:
        return limit
    scaled = [_original_length(config, rope) * rope["factor"] for rope in _ropes(config) if rope.get("factor")]
    return int(max([config.max_position_embeddings, *scaled]))


def _is_length_dependent(rope: dict[str, Any]) -> bool:
    return any(kind in str(rope.get("rope_type")) for kind in LENGTH_DEPENDENT_ROPES)


def _original_length(config: Any, rope: dict[str, Any]) -> int:
    stated = rope.get("original_max_position_embeddings")
    return int(stated or getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings)


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The rotary settings: one for all layers, or one per layer type."""
    parameters = config.rope_parameters or {}
    nested = [rope for rope in parameters.values() if isinstance(rope, dict)]
    return nested or [parameters]
