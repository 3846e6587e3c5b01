"""One safetensors file: its header, checked before it is believed, and its tensors, read straight to where they belong.

The format (8 bytes of header length, a JSON header, the data) is read here rather than mapped by a library for three
reasons: only the bytes of the wanted tensors are touched, nothing is held twice (a mapped file counts as resident
beside its copy), and a file that shrinks while it is read is an error instead of a bus fault.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dsd_core.errors import InvalidWeights, UnsupportedModel

MAX_HEADER_BYTES = 1 << 20
STAGING_BYTES = 8 << 20
"""Tensors of another dtype or device pass through a buffer of this size, so memory never holds one twice."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8} | {
    name: dtype.itemsize for name, dtype in DTYPES.items()
}


@dataclass(frozen=True, slots=True)
class TensorShape:
    """What a header says of a tensor, wherever its bytes lie. `dtype` is the format's name, such as BF16."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredTensor(TensorShape):
    start: int
    """Where its bytes begin in the file."""
    nbytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name. Raises InvalidWeights where the file is not sound safetensors."""
    try:
        with path.open("rb") as file:
            return _parse_header(file, path.stat().st_size, path)
    except OSError as error:
        raise InvalidWeights(f"cannot read {path}: {error.strerror or error}; check the file") from error


def _parse_header(file: BinaryIO, file_bytes: int, path: Path) -> dict[str, StoredTensor]:
    header_bytes = int.from_bytes(file.read(8), "little")
    if file_bytes < 8 or header_bytes > file_bytes - 8:
        raise _damaged(path, "it ends inside its header")
    if header_bytes > MAX_HEADER_BYTES:
        raise _damaged(path, f"its header of {header_bytes} bytes is over the limit of {MAX_HEADER_BYTES}")
    entries = _parse_json(file.read(header_bytes), path)
    entries.pop("__metadata__", None)
    data_start = 8 + header_bytes
    return {name: _parse_entry(name, entry, data_start, file_bytes, path) for name, entry in entries.items()}


def _parse_json(header: bytes, path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(entries, dict):
        raise _damaged(path, "its header is not a JSON object")
    return entries


def _parse_entry(name: str, entry: Any, data_start: int, file_bytes: int, path: Path) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        sound = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"its entry for {name} is malformed") from error
    if not sound or (dtype in DTYPE_BYTES and end - begin != math.prod(shape) * DTYPE_BYTES[dtype]) or end < begin:
        raise _damaged(path, f"its entry for {name} is malformed")
    if data_start + end > file_bytes:
        raise _damaged(path, f"it ends inside the tensor {name}")
    return StoredTensor(dtype, shape, data_start + begin, end - begin)


def _damaged(path: Path, why: str) -> InvalidWeights:
    return InvalidWeights(f"{path} is not a sound safetensors file: {why}; download it again")


class WeightFile:
    """An open file. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors = read_header(path)
        self.bytes_read = 0
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str, into: torch.Tensor) -> None:
        """Copy a stored tensor into a contiguous one of its shape, whose dtype and device may differ."""
        stored = self.tensors.get(name)
        if stored is None or stored.shape != tuple(into.shape):
            raise _damaged(self.path, f"it does not hold {name} as announced")
        dtype = float_dtype(name, stored.dtype)
        self._file.seek(stored.start)
        for part in torch.split(into.view(-1), STAGING_BYTES // dtype.itemsize):
            self._read_part(part, dtype)

    def _read_part(self, part: torch.Tensor, dtype: torch.dtype) -> None:
        if part.dtype == dtype and part.device.type == "cpu":
            return self._fill(part)
        staging = torch.empty(part.shape, dtype=dtype)
        self._fill(staging)
        part.copy_(staging)

    def _fill(self, tensor: torch.Tensor) -> None:
        buffer = memoryview(tensor.view(torch.uint8).numpy().data)
        while buffer:
            count = self._file.readinto(buffer)
            if not count:
                raise _damaged(self.path, "it became shorter while it was read")
            self.bytes_read += count
            buffer = buffer[count:]


def float_dtype(name: str, stored: str) -> torch.dtype:
    """The torch dtype of a stored weight. Raises UnsupportedModel for integers and 8-bit floats: quantized weights."""
    if stored not in DTYPES:
        raise UnsupportedModel(f"{name} is stored as {stored}, which we do not serve; choose a checkpoint in BF16 or F32")
    return DTYPES[stored]
