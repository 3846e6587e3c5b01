"""The keys and values of one session on one span: promised when the session opens, returned when it closes.

One block of memory holds them all, so giving it back is one deallocation, and neither growth nor rollback ever copies.
Layout: [layers, 2 (keys, values), heads, slots, head_dim]. Attention reads the slots in use as views of it.
"""

import mmap
import sys
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dsd_core.errors import OutOfCapacity
from dsd_core.model.memory import available_bytes


@dataclass(frozen=True, slots=True)
class KvLayout:
    """What one slot consists of."""

    layers: int
    heads: int
    head_dim: int
    dtype: torch.dtype

    def nbytes(self, slots: int) -> int:
        return 2 * self.layers * self.heads * self.head_dim * self.dtype.itemsize * slots


class KvStore:
    """Preallocated keys and values. Its user says which slots to write and which to read; it does no accounting."""

    def __init__(self, layout: KvLayout, slots: int, device: torch.device) -> None:
        """Raises OutOfCapacity if the memory is not there."""
        self.capacity = slots
        self.nbytes = layout.nbytes(slots)
        self._layers = _split_layers(_allocate(layout, slots, device))

    @property
    def closed(self) -> bool:
        return not self._layers

    def close(self) -> None:
        """Give the memory back, at once unless a forward is reading it. Closing twice is harmless."""
        self._layers = []
        self.nbytes = 0

    def writer(self, slots: NDArray[np.int64], used: int) -> "SlotWriter":
        """For one forward: stores its nodes in `slots`, reads the first `used` ones. Raises ValueError once closed."""
        if not self._layers:
            raise ValueError("the session's keys and values were given back: open a new session")
        return SlotWriter(self._layers, slots, used)

    def erase(self, slots: NDArray[np.int64]) -> None:
        """Zero some slots: values that are not finite spoil other rows even with an attention weight of 0."""
        for keys, values in self._layers:
            index = torch.tensor(slots, device=keys.device)
            keys.index_fill_(2, index, 0)
            values.index_fill_(2, index, 0)


def _allocate(layout: KvLayout, slots: int, device: torch.device) -> torch.Tensor:
    needed, available = layout.nbytes(slots), available_bytes(device)
    refusal = f"{slots} slots need {needed} bytes, more than is left; close sessions or ask for fewer slots"
    if available is not None and needed > available:
        raise OutOfCapacity(refusal)
    shape = (layout.layers, 2, layout.heads, slots, layout.head_dim)
    try:
        if device.type == "cpu":
            block = _mapped(needed, layout.dtype).view(shape)
        else:
            block = torch.empty(shape, dtype=layout.dtype, device=device)
    except (RuntimeError, MemoryError, OSError) as error:  # torch.OutOfMemoryError is a RuntimeError
        raise OutOfCapacity(refusal) from error
    # Zeroing is what makes the promise real (an operating system hands out pages when they are touched), and it
    # leaves no old bytes that could read as NaN in a slot that was never written.
    return block.zero_()


def _mapped(nbytes: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory of its own from the operating system, which gets it back whole: the C library would keep some for later."""
    return torch.frombuffer(_private(nbytes), dtype=dtype)


def _private(nbytes: int) -> mmap.mmap:
    """Ours alone: shared memory counts as a container's page cache, which looks as if it could be taken back. Large pages,
    where there are any, are touched in a fifth of the time, and a session waits for that."""
    if sys.platform == "win32":
        return mmap.mmap(-1, nbytes)
    block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _split_layers(block: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The keys and the values of each layer, [1, heads, slots, head_dim]."""
    return [(keys[None], values[None]) for keys, values in block]


class SlotWriter:
    """What a model takes for its cache during one forward: stores new keys and values, returns those in use.

    It has the one method of transformers' Cache that an attention layer calls.
    """

    def __init__(self, layers: list[tuple[torch.Tensor, torch.Tensor]], slots: NDArray[np.int64], used: int) -> None:
        self._layers = layers
        self._used = used
        self._first = int(slots[0])
        self._count = len(slots)
        is_run = self._count == 1 or bool((np.diff(slots) == 1).all())
        self._index = None if is_run else torch.tensor(slots, device=layers[0][0].device)

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store [1, heads, nodes, head_dim] of a layer; returns views of [1, heads, used, head_dim]."""
        stored_keys, stored_values = self._layers[layer]
        self._store(stored_keys, keys)
        self._store(stored_values, values)
        return stored_keys.narrow(2, 0, self._used), stored_values.narrow(2, 0, self._used)

    def _store(self, stored: torch.Tensor, new: torch.Tensor) -> None:
        if self._index is None:
            stored.narrow(2, self._first, self._count).copy_(new)
        else:
            stored.index_copy_(2, self._index, new)
