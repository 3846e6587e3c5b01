"""What parts of a model take of a machine's memory, from the headers of its files, before anything is downloaded."""

import math
from collections.abc import Callable

import torch

from dsd_core.decoding.chains.placement import ModelSize
from dsd_core.model.checkpoint import Checkpoint
from dsd_core.model.families import family_of
from dsd_core.model.source import ModelSource
from dsd_core.model.span import kv_layout


def model_size(source: ModelSource, dtype: torch.dtype, kv_slots: int) -> ModelSize:
    """Bytes of the weights in `dtype` and, for each layer, of the keys and values of `kv_slots` positions.

    Raises InvalidWeights where the checkpoint has no model in it.
    """
    family = family_of(source.config)
    checkpoint = Checkpoint(source, family.embedding)
    own_head = checkpoint.head_name(family.head)
    embedding = checkpoint.base_name(f"{family.embedding}.weight")

    def nbytes(belongs: Callable[[str], bool]) -> int:
        elements = (math.prod(tensor.shape) for name, tensor in source.tensors.items() if belongs(name))
        return sum(elements) * dtype.itemsize

    def layer_bytes(layer: int) -> int:
        prefix = checkpoint.base_name(f"layers.{layer}.")
        return nbytes(lambda name: name.startswith(prefix)) + kv_layout(source, range(layer, layer + 1), dtype).nbytes(kv_slots)

    return ModelSize(
        layers=tuple(layer_bytes(layer) for layer in range(source.num_layers)),
        embedding=nbytes(lambda name: name == embedding),
        head=nbytes(lambda name: name == (own_head or embedding)),
        is_tied=own_head is None,
    )
