"""A Hugging Face decoder that has some of its layers only, and memory for those only.

It is built without memory (torch's meta device), loses the parts that its span does not need, and then gets each
parameter's memory and content once.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dsd_core.errors import InvalidWeights, OutOfCapacity, UnsupportedModel
from dsd_core.model import attention, shortcuts
from dsd_core.model.asked_rows import AskedRows
from dsd_core.model.checkpoint import Checkpoint, Piece, Progress
from dsd_core.model.families import Family, family_of, span_config
from dsd_core.model.linear import PLAIN, Layout, Layouts
from dsd_core.model.memory import available_bytes, give_back
from dsd_core.model.repository import one_line
from dsd_core.model.source import ModelSource


@dataclass(frozen=True, slots=True)
class Decoder:
    base: Any
    """transformers' base model."""
    forward: Callable[..., Any]
    """Calls it: token ids or hidden states to hidden states."""
    head: Layout | None
    """Hidden states to scores, where the span ends the model."""
    last_mlp: AskedRows | None
    """The last layer's, where the span ends the model: it is told which rows are asked for."""
    weight_bytes: int


def load_decoder(
    source: ModelSource, layers: range, dtype: torch.dtype, device: torch.device, progress: Progress | None
) -> Decoder:
    """Read the tensors of `layers` alone. Raises InvalidWeights, or OutOfCapacity before anything is read."""
    family = family_of(source.config)
    base = _build(source.config, family, layers, dtype)
    _materialize_buffers(base, device)
    checkpoint = Checkpoint(source, family.embedding)
    head_name = _head_name(source, family, checkpoint) if layers.stop == source.num_layers else None
    _require_memory(base, 0 if head_name is None else source.vocab_size * source.hidden_size, dtype, device)
    pieces = _materialize_parameters(base, checkpoint, layers, dtype, device)
    head = None if head_name is None else _materialize_head(source, pieces, head_name, dtype, device)
    checkpoint.read(pieces, progress)
    pieces.clear()  # or no weight could be freed when its layout changes
    weight_bytes = _weight_bytes(base, head)
    layouts = Layouts()
    layouts.replace_in(base)
    laid_out_head = None if head is None else _lay_out_head(base, head, layouts)
    last_mlp = None if head is None else _replace_last_mlp(base)
    give_back()
    return Decoder(base, shortcuts.take(base), laid_out_head, last_mlp, weight_bytes)


def _weight_bytes(base: Any, head: torch.Tensor | None) -> int:
    weights = [*base.parameters()] + ([] if head is None else [head])
    return sum({weight.data_ptr(): weight.nbytes for weight in weights}.values())


def _lay_out_head(base: Any, head: torch.Tensor, layouts: Layouts) -> Layout:
    embedding = base.get_input_embeddings()
    if isinstance(embedding, nn.Identity) or embedding.weight.data_ptr() != head.data_ptr():
        return layouts.of(head)
    # One tensor stays one: rows can be looked up in it whichever way it lies, as long as it lies plainly.
    laid_out = layouts.of(head, kinds=PLAIN)
    embedding.weight = nn.Parameter(laid_out.weight, requires_grad=False)
    return laid_out


def _replace_last_mlp(base: Any) -> AskedRows:
    base.layers[-1].mlp = AskedRows(base.layers[-1].mlp)
    return base.layers[-1].mlp  # type: ignore[no-any-return]


def _build(config: Any, family: Family, layers: range, dtype: torch.dtype) -> Any:
    """The base model on the meta device. Parts that other spans have are replaced by the identity."""
    from transformers import AutoModel

    attention.register()
    try:
        with torch.device("meta"):
            base: Any = AutoModel.from_config(  # type: ignore[no-untyped-call]
                span_config(config, layers), dtype=dtype, attn_implementation=attention.NAME
            )
    except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError) as error:
        raise UnsupportedModel(
            f"transformers cannot build this {config.model_type} model ({one_line(error)}); check its config.json"
        ) from error
    if layers.start > 0:
        setattr(base, family.embedding, nn.Identity())
    if layers.stop < config.num_hidden_layers:
        setattr(base, family.norm, nn.Identity())
    return base.eval().requires_grad_(False)


def _materialize_buffers(base: Any, device: torch.device) -> None:
    """Compute what is derived from the config and in no checkpoint, such as rotary frequencies.

    transformers does the same after loading: a module's own initialisation fills its buffers. The parameters are still
    on the meta device here, where initialising them costs nothing.
    """
    for module in base.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name, buffer in buffers.items():
            module.register_buffer(name, torch.full_like(buffer, torch.nan, device="cpu"), persistent=False)
        if buffers:
            base._init_weights(module)
            _require_filled(module)
            module._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device), recurse=False)


def _require_filled(module: nn.Module) -> None:
    """Can this happen? Only with a version of transformers that fills buffers elsewhere; it would be served wrong."""
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.isnan().any():
            raise UnsupportedModel(
                f"transformers left {type(module).__name__}.{name} empty; install a version that we are tested with"
            )


def _require_memory(base: Any, head_elements: int, dtype: torch.dtype, device: torch.device) -> None:
    elements = sum(parameter.numel() for parameter in base.parameters()) + head_elements
    needed, available = elements * dtype.itemsize, available_bytes(device)
    if available is not None and needed > available:
        raise OutOfCapacity(
            f"the layers need {needed} bytes of memory and {available} are left; choose fewer layers or a smaller dtype"
        )


def _materialize_parameters(
    base: Any, checkpoint: Checkpoint, layers: range, dtype: torch.dtype, device: torch.device
) -> list[Piece]:
    """Give each parameter its memory; returns what has to be read into it."""
    pieces: list[Piece] = []
    for name, parameter in list(base.named_parameters()):
        weight = torch.empty(parameter.shape, dtype=dtype, device=device)
        owner, _, attribute = name.rpartition(".")
        setattr(base.get_submodule(owner), attribute, nn.Parameter(weight, requires_grad=False))
        pieces += checkpoint.pieces(_name_in_model(name, layers.start), weight)
    return pieces


def _name_in_model(name: str, first_layer: int) -> str:
    """A span counts its layers from 0, the checkpoint from the model's first."""
    return re.sub(r"^layers\.(\d+)\.", lambda match: f"layers.{int(match[1]) + first_layer}.", name)


def _head_name(source: ModelSource, family: Family, checkpoint: Checkpoint) -> str:
    """The head's own tensor comes first: a checkpoint may have one that differs, whatever its config says of tying."""
    own = checkpoint.head_name(family.head)
    if own is None and not source.config.tie_word_embeddings:
        raise InvalidWeights(f"{source.repository} lacks the tensor {family.head[0]}; download it again")
    return own or checkpoint.base_name(f"{family.embedding}.weight")


def _materialize_head(
    source: ModelSource, pieces: list[Piece], name: str, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """The head's memory, which is the embedding's where one tensor fills both; adds what has to be read."""
    for piece in pieces:
        if piece.name == name:
            return piece.into
    head = torch.empty(source.vocab_size, source.hidden_size, dtype=dtype, device=device)
    pieces.append(Piece(name, head))
    return head
