"""What a span will take, told before it is loaded."""

import itertools

import pytest
import torch

from dsd_core.model.size import model_size
from dsd_core.model.source import ModelSource
from dsd_core.model.span import Span
from tests.model.conftest import MakeTiny, Tiny


def assert_told(source: ModelSource) -> None:
    """For all spans, but for the last norm, which is a row or two among matrices."""
    size = model_size(source, torch.float32, kv_slots=64)
    norm = 2 * source.hidden_size * torch.float32.itemsize
    for start, stop in itertools.combinations(range(source.num_layers + 1), 2):
        span = Span.load(source, range(start, stop), device="cpu")
        assert size.span_bytes(span.layers) == pytest.approx(span.weight_bytes + span.kv_bytes(64), abs=norm)


def test_it_is_what_spans_take(tiny: Tiny) -> None:
    assert_told(tiny.source)


def test_a_tied_head_takes_memory_where_the_embedding_is_not(make_tiny: MakeTiny) -> None:
    tiny = make_tiny("llama", tie_word_embeddings=True)
    assert_told(tiny.source)
    assert model_size(tiny.source, torch.float32, kv_slots=1).is_tied


def test_half_the_precision_is_half_the_memory(llama: Tiny) -> None:
    whole, half = (model_size(llama.source, dtype, kv_slots=64) for dtype in (torch.float32, torch.bfloat16))
    assert [2 * layer for layer in half.layers] == list(whole.layers)
