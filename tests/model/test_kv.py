"""A session's keys and values: reserved, written, read, given back."""

import weakref

import numpy as np
import pytest
import torch

from dsd_core.errors import OutOfCapacity
from dsd_core.model import kv
from dsd_core.model.kv import KvLayout, KvStore
from dsd_core.model.span import Span
from tests.model.conftest import Tiny

CPU = torch.device("cpu")
LAYOUT = KvLayout(layers=2, heads=3, head_dim=4, dtype=torch.float32)


def new_rows(count: int, first: float) -> torch.Tensor:
    """Keys [1, heads, count, head_dim] whose values are their row's number."""
    return (torch.arange(count) + first).view(1, 1, count, 1).expand(1, 3, count, 4).contiguous()


def test_a_store_takes_what_was_announced(llama: Tiny) -> None:
    span = Span.load(llama.source, range(0, 2), dtype="bf16")
    store = span.reserve(10)
    assert store.capacity == 10
    assert store.nbytes == span.kv_bytes(10) == 2 * 2 * 2 * 8 * 2 * 10  # layers, k and v, heads, head_dim, bytes


def test_memory_goes_back_when_a_store_is_closed() -> None:
    store = KvStore(LAYOUT, 8, CPU)
    block = weakref.ref(store._layers[0][0].untyped_storage())
    store.close()
    assert store.nbytes == 0
    assert block() is None
    store.close()
    with pytest.raises(ValueError, match="given back"):
        store.writer(np.array([0]), 1)


@pytest.mark.parametrize("slots", [[2, 3, 4], [4, 0, 2], [1, 3, 2, 4], [3]])
def test_rows_go_to_their_slots(slots: list[int]) -> None:
    store = KvStore(LAYOUT, 8, CPU)
    writer = store.writer(np.array(slots), used=5)
    keys, values = writer.update(new_rows(len(slots), 1.0), new_rows(len(slots), 11.0), 1)
    assert keys.shape == values.shape == (1, 3, 5, 4)
    assert keys[0, 0, slots, 0].tolist() == [1.0 + row for row in range(len(slots))]
    assert values[0, 2, slots, 3].tolist() == [11.0 + row for row in range(len(slots))]
    others = sorted(set(range(5)) - set(slots))
    assert not keys[0, :, others].any()
    assert not store._layers[0][0].any()


def test_what_attention_reads_is_not_a_copy() -> None:
    store = KvStore(LAYOUT, 8, CPU)
    keys, _ = store.writer(np.array([0]), used=1).update(new_rows(1, 1.0), new_rows(1, 1.0), 0)
    assert keys.data_ptr() == store._layers[0][0].data_ptr()


def test_slots_can_be_erased() -> None:
    store = KvStore(LAYOUT, 8, CPU)
    store.writer(np.array([0, 1]), used=2).update(new_rows(2, torch.nan), new_rows(2, torch.nan), 0)
    store.erase(np.array([0, 1]))
    assert not store._layers[0][0].any()


def test_more_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfCapacity, match=r"slots need \d+ bytes, more than is left"):
        KvStore(LAYOUT, 1 << 50, CPU)
    monkeypatch.setattr(kv, "available_bytes", lambda device: None)
    with pytest.raises(OutOfCapacity, match=r"slots need \d+ bytes, more than is left"):
        KvStore(LAYOUT, 1 << 50, CPU)
    monkeypatch.setattr(kv, "available_bytes", lambda device: LAYOUT.nbytes(8))
    KvStore(LAYOUT, 8, CPU)
    with pytest.raises(OutOfCapacity):
        KvStore(LAYOUT, 9, CPU)
