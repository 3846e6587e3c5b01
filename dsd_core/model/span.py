"""A contiguous span of a model's layers: loaded once, then run for the frames of many sessions.

A span is the Hugging Face model itself with fewer layers (see decoder.py); what goes in and out is what the whole model
has between the same layers. A token's row depends on its ancestors alone, so a tree may be fed in any frames, and any
chain of spans gives the whole model's scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dsd_core.errors import InvalidSpan, OutOfCapacity, PromptTooLong, ProtocolError, UnsupportedModel, UsageError
from dsd_core.model.attention import TreeMask
from dsd_core.model.checkpoint import Progress
from dsd_core.model.decoder import Decoder, load_decoder
from dsd_core.model.families import family_of, fixed_positions
from dsd_core.model.kv import KvLayout, KvStore
from dsd_core.model.source import ModelSource
from dsd_core.model.weight_file import DTYPES

__all__ = ["KvStore", "Progress", "Span", "SpanInput"]

DTYPE_NAMES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}

BYTES_A_CORE = 8 << 20
"""Of weights. With fewer to read and multiply, cores spend longer waiting for each other than they save."""


@dataclass(frozen=True, slots=True)
class SpanInput:
    """What one session feeds a span, one row per tree node. Ancestors come with their node or before it."""

    kv: KvStore
    slots: NDArray[np.int64]
    """[nodes] where each node's key and value go. Distinct; fastest as an ascending run."""
    positions: NDArray[np.int64]
    """[nodes] depth in the tree, which is the rotary position."""
    visible: NDArray[np.bool_]
    """[nodes, used] the slots each node attends to, itself included. `used` is the highest slot in use + 1."""
    slot_positions: NDArray[np.int64]
    """[used] depth of the node in each slot; of free slots, anything."""
    tokens: NDArray[np.int64] | None
    """[nodes] where the span starts the model."""
    hidden: torch.Tensor | None
    """[nodes, hidden_size] elsewhere, of any dtype and on any device."""
    asked: Sequence[int] | None = None
    """Rows that `logits` will be asked for, where the span ends the model; None, any. What others come out as means nothing."""


class Span:
    """Layers in memory. Not thread-safe: one thread calls `forward` and `logits`."""

    def __init__(self, source: ModelSource, layers: range, decoder: Decoder, dtype: torch.dtype, device: torch.device) -> None:
        """Use `load`."""
        self.layers = layers
        self.starts = layers.start == 0
        self.ends = layers.stop == source.num_layers
        self.hidden_size = source.hidden_size
        self.vocab_size = source.vocab_size
        self.dtype = dtype
        self.device = device
        self.weight_bytes = decoder.weight_bytes
        self._config = source.config
        self._decoder = decoder
        self._kv_layout = kv_layout(source, layers, dtype)
        self._fixed_positions = fixed_positions(source.config)

    @classmethod
    def load(
        cls,
        source: ModelSource,
        layers: range,
        *,
        device: str = "auto",
        dtype: str = "auto",
        progress: Progress | None = None,
    ) -> "Span":
        """Download and read what `layers` need, and nothing else. `progress` is told bytes done and bytes in all.

        Raises InvalidSpan, InvalidWeights, UnsupportedModel, OutOfCapacity (before it reads), or UsageError for a device
        or dtype that is not to be had.
        """
        _require_layers(source, layers)
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device, source)
        decoder = load_decoder(source, layers, chosen_dtype, chosen_device, progress)
        return cls(source, layers, decoder, chosen_dtype, chosen_device)

    def use_few_cores(self) -> None:
        """Let the calling thread share its products among no more cores than so few weights keep busy: others would spin,
        and the machine may have better use for them."""
        torch.set_num_threads(max(1, min(torch.get_num_threads(), self.weight_bytes // BYTES_A_CORE)))

    def kv_bytes(self, slots: int) -> int:
        """What `reserve(slots)` takes."""
        return self._kv_layout.nbytes(slots)

    def reserve(self, slots: int) -> KvStore:
        """Memory for the keys and values of `slots` nodes of one session. Raises OutOfCapacity."""
        return KvStore(self._kv_layout, slots, self.device)

    @torch.inference_mode()
    def forward(self, batch: Sequence[SpanInput]) -> list[torch.Tensor]:
        """Per session, the hidden states [nodes, hidden_size] after the span's last layer, on the span's device.

        Where the span ends the model its final norm is applied. Raises ProtocolError for input that no honest peer sends,
        PromptTooLong past the positions that the model's frequencies cover, UnsupportedModel if values leave the range
        of the dtype; nothing of the input is kept then.
        """
        # One after the other. Batching across sessions would read the weights once for all; the interface allows it.
        return [self._forward_one(rows) for rows in batch]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocab_size] in float32 on the CPU for rows of `forward`. Only where the span ends the model."""
        if self._decoder.head is None:
            raise ValueError(f"layers {self.layers.start}:{self.layers.stop} do not end the model: they have no head")
        scores = self._decoder.head(hidden.to(self.device, self.dtype)).float()
        return _scaled(scores, self._config).cpu()

    def _forward_one(self, rows: SpanInput) -> torch.Tensor:
        self._check(rows)
        if self._decoder.last_mlp is not None:
            self._decoder.last_mlp.ask(rows.asked, of=len(rows.slots))
        output = self._decoder.forward(
            **self._embedding_input(rows),
            position_ids=torch.tensor(rows.positions, device=self.device)[None],
            past_key_values=rows.kv.writer(rows.slots, len(rows.slot_positions)),
            use_cache=False,  # that is: make no cache of your own
            tree_mask=TreeMask(rows.visible, rows.positions, rows.slot_positions, self.dtype, self.device),
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        if not _is_finite(hidden):
            rows.kv.erase(rows.slots)
            raise UnsupportedModel(f"values left the range of {self.dtype}; serve this model with --dtype bf16 or fp32")
        return hidden

    def _embedding_input(self, rows: SpanInput) -> dict[str, torch.Tensor]:
        if rows.tokens is not None:
            return {"input_ids": torch.tensor(rows.tokens, device=self.device)[None]}
        assert rows.hidden is not None
        return {"inputs_embeds": rows.hidden[None].to(self.device, self.dtype)}

    def _check(self, rows: SpanInput) -> None:
        """Refuse what would break more than its own session: an id outside the embedding aborts a CUDA context."""
        if self.starts and not _are_tokens(rows.tokens, self.vocab_size):
            raise ProtocolError(f"the first stage takes token ids below {self.vocab_size}")
        if not self.starts and not _are_hidden_states(rows.hidden, (len(rows.slots), self.hidden_size)):
            raise ProtocolError(f"a later stage takes finite hidden states of size {self.hidden_size}")
        if len(rows.slot_positions) > rows.kv.capacity:
            raise OutOfCapacity(f"the session reserved {rows.kv.capacity} slots and uses {len(rows.slot_positions)}")
        if self._fixed_positions is not None and int(rows.positions.max()) >= self._fixed_positions:
            raise PromptTooLong(f"the model serves {self._fixed_positions} positions; shorten the prompt or the answer")


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises UsageError for a device that torch does not have here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"there is no device {device!r} here; use cpu, cuda or auto") from error
    return chosen


def choose_dtype(dtype: str, device: torch.device, source: ModelSource) -> torch.dtype:
    """`auto` is fp32 on a CPU, elsewhere that of the checkpoint. Raises UsageError for an unknown name."""
    if dtype in DTYPE_NAMES:
        return DTYPE_NAMES[dtype]
    if dtype != "auto":
        raise UsageError(f"there is no dtype {dtype!r}; use auto, fp32, bf16 or fp16")
    if device.type == "cpu":
        return torch.float32
    stored = max(source.tensors.values(), key=lambda tensor: len(tensor.shape)).dtype
    return DTYPES.get(stored, torch.float32)


def _require_layers(source: ModelSource, layers: range) -> None:
    if layers.step != 1 or not 0 <= layers.start < layers.stop <= source.num_layers:
        raise InvalidSpan(
            f"{source.name} has the layers 0:{source.num_layers}, not {layers.start}:{layers.stop}; choose among them"
        )


def kv_layout(source: ModelSource, layers: range, dtype: torch.dtype) -> KvLayout:
    """What a slot of these layers consists of."""
    config = source.config
    heads = getattr(config, family_of(config).key_heads) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KvLayout(len(layers), int(heads), int(head_dim), dtype)


def _scaled(scores: torch.Tensor, config: object) -> torch.Tensor:
    """What some families do to their head's output."""
    divisor = getattr(config, "logits_scaling", None)
    cap = getattr(config, "final_logit_softcapping", None)
    if divisor is not None:
        scores = scores / divisor
    return scores if cap is None else torch.tanh(scores / cap) * cap


def _are_tokens(tokens: NDArray[np.int64] | None, vocab_size: int) -> bool:
    return tokens is not None and len(tokens) > 0 and int(tokens.min()) >= 0 and int(tokens.max()) < vocab_size


def _are_hidden_states(hidden: torch.Tensor | None, shape: tuple[int, int]) -> bool:
    return hidden is not None and shape[0] > 0 and hidden.shape == shape and _is_finite(hidden)


def _is_finite(values: torch.Tensor) -> bool:
    """One NaN or infinity makes the sum one; one operation instead of two over all values."""
    return bool(values.sum(dtype=torch.float32).isfinite())
