"""Reading safetensors, sound and unsound."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dsd_core.errors import InvalidWeights, UnsupportedModel
from dsd_core.model import weight_file
from dsd_core.model.weight_file import WeightFile, read_header


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_tensors_come_back(path: Path, stored: torch.dtype, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_file, "STAGING_BYTES", 64)  # so that it takes several parts
    tensors = {"a": torch.randn(7, 11).to(stored), "b": torch.randn(3).to(stored), "none": torch.zeros(0, 4).to(stored)}
    save_file(tensors, path, metadata={"format": "pt"})
    with WeightFile(path) as file:
        assert set(file.tensors) == set(tensors)
        for name, tensor in tensors.items():
            into = torch.empty(tensor.shape, dtype=wanted)
            file.read(name, into)
            assert torch.equal(into, tensor.to(wanted))
        assert file.bytes_read == sum(tensor.nbytes for tensor in tensors.values())


def test_a_tensor_can_fill_a_part_of_another(path: Path) -> None:
    save_file({"up": torch.ones(2, 3)}, path)
    fused = torch.zeros(4, 3)
    with WeightFile(path) as file:
        file.read("up", fused[2:])
    assert fused.sum(1).tolist() == [0, 0, 3, 3]


@pytest.mark.parametrize(
    ("header", "data", "why"),
    [
        (b"[" * 100_000, b"", "is not JSON"),
        (b"\xff{}", b"", "is not JSON"),
        ([1], b"", "is not a JSON object"),
        ({"w": 1}, b"", "malformed"),
        ({"w": {}}, b"", "malformed"),
        (entry(shape=[-2]), b"12345678", "malformed"),
        (entry(shape=[2.0]), b"12345678", "malformed"),
        (entry(shape=3), b"12345678", "malformed"),
        (entry(shape=[3]), b"12345678", "malformed"),
        (entry(data_offsets=[8, 0]), b"12345678", "malformed"),
        (entry(data_offsets=[0]), b"12345678", "malformed"),
        (entry(data_offsets=[0, True]), b"12345678", "malformed"),
        (entry(), b"1234567", "it ends inside the tensor w"),
    ],
)
def test_unsound_headers(path: Path, header: Any, data: bytes, why: str) -> None:
    with pytest.raises(InvalidWeights, match=why) as caught:
        read_header(write(path, header, data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 3) + b"{}", struct.pack("<Q", 1 << 63) + b"{}"])
def test_files_that_end_in_their_header(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidWeights, match="ends inside its header"):
        read_header(path)


def test_a_header_over_the_limit(path: Path) -> None:
    with pytest.raises(InvalidWeights, match="over the limit of 1048576"):
        read_header(write(path, b" " * (weight_file.MAX_HEADER_BYTES + 1)))


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(InvalidWeights, match=r"cannot read .*: No such file"):
        read_header(path)


def test_a_file_that_shrinks_or_changes_while_it_is_read(path: Path) -> None:
    save_file({"w": torch.ones(100)}, path)
    with WeightFile(path) as file:
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(InvalidWeights, match="became shorter"):
            file.read("w", torch.empty(100))
        with pytest.raises(InvalidWeights, match="does not hold w as announced"):
            file.read("w", torch.empty(101))


def test_types_that_are_not_weights(path: Path) -> None:
    save_file({"w": torch.ones(2, dtype=torch.int8)}, path)
    with WeightFile(path) as file, pytest.raises(UnsupportedModel, match="w is stored as I8"):
        file.read("w", torch.empty(2))


def test_a_type_that_we_do_not_know_is_no_harm_until_it_is_read(path: Path) -> None:
    assert read_header(write(path, entry(dtype="F8_E4M3", data_offsets=[0, 2]), b"12"))["w"].dtype == "F8_E4M3"
