"""Whatever the layout of a weight, it is the same matrix."""

from collections import Counter

import pytest
import torch
from torch import nn

from dsd_core.model import linear
from dsd_core.model.linear import PLAIN, ByColumns, Layout, Layouts, Packed

needs_one_dnn = pytest.mark.skipif(not linear._has_one_dnn(), reason="torch was built without oneDNN")


@pytest.mark.parametrize("kind", [Layout, ByColumns, pytest.param(Packed, marks=needs_one_dnn)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.01)])
@pytest.mark.parametrize("biased", [False, True])
@torch.inference_mode()
def test_products_are_those_of_torchs_own_layer(
    kind: type[Layout], dtype: torch.dtype, tolerance: float, biased: bool
) -> None:
    layer = nn.Linear(96, 160, bias=biased, dtype=dtype)
    try:
        layout = kind(layer.weight, layer.bias)
    except RuntimeError as error:
        pytest.skip(f"this processor cannot: {error}")
    for rows in (1, 2, 4, 33):
        hidden = torch.randn(1, rows, 96, dtype=dtype)
        torch.testing.assert_close(layout(hidden), layer(hidden), atol=tolerance, rtol=0)


def model(*sizes: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(inputs, outputs, bias=False) for inputs, outputs in sizes)).requires_grad_(False)


def test_a_shape_is_measured_once_and_all_of_it_get_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: Counter[type[Layout]] = Counter()

    def seconds(kind: type[Layout], *_: object) -> float:
        measured[kind] += 1
        return 1.0 if kind is ByColumns else 2.0

    monkeypatch.setattr(linear, "_seconds", seconds)
    base = model((512, 256), (256, 512), (512, 256))
    hidden = torch.randn(3, 512)
    expected = base(hidden)
    Layouts().replace_in(base)
    assert [type(layer) for layer in base] == [ByColumns] * 3
    assert measured[ByColumns] == measured[Layout] == 2, "two shapes"
    torch.testing.assert_close(base(hidden), expected)


def test_small_matrices_and_other_modules_stay_as_they_are() -> None:
    base = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Embedding(1000, 512))
    before = list(base)
    Layouts().replace_in(base)
    assert list(base) == before


def test_a_torch_without_one_dnn_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_has_one_dnn", lambda: False)
    base = model((512, 256))
    Layouts().replace_in(base)
    assert type(base[0]) in PLAIN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_every_processor_has_a_layout_for_every_dtype(dtype: torch.dtype) -> None:
    base = model((512, 256)).to(dtype)
    hidden = torch.randn(2, 512, dtype=dtype)
    expected = base(hidden)
    Layouts().replace_in(base)
    torch.testing.assert_close(base(hidden), expected, atol=0.05, rtol=0.05)


@needs_one_dnn
def test_a_layout_that_this_processor_cannot_do_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Packed, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        raise RuntimeError("bf16 path needs the cpu support avx512bw, avx512vl and avx512dq")

    monkeypatch.setattr(Packed, "__init__", refuse)
    base = model((512, 256)).to(torch.bfloat16)
    Layouts().replace_in(base)
    assert type(base[0]) in PLAIN


def test_the_fastest_is_measured_for_one_node_and_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    monkeypatch.setattr(linear, "_seconds_for", lambda layout, hidden: rows.append(len(hidden)) or 1.0)
    Layouts().of(torch.randn(512, 256))
    assert set(rows) == {1, 4}
