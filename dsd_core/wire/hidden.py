"""Hidden states on the wire: bytes with a type and a shape."""

from dataclasses import dataclass
from enum import Enum

from dsd_core.errors import ProtocolError
from dsd_core.wire.v1 import stage_pb2


class DType(Enum):
    """Number formats, by torch's names."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def itemsize(self) -> int:
        return 4 if self is DType.FLOAT32 else 2


_TO_WIRE = {
    DType.FLOAT32: stage_pb2.DATA_TYPE_FLOAT32,
    DType.BFLOAT16: stage_pb2.DATA_TYPE_BFLOAT16,
    DType.FLOAT16: stage_pb2.DATA_TYPE_FLOAT16,
}
_FROM_WIRE = {number: dtype for dtype, number in _TO_WIRE.items()}


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """A row of `width` numbers for each node, little-endian, in `data`."""

    dtype: DType
    rows: int
    width: int
    data: bytes


def dtype_to_wire(dtype: DType) -> stage_pb2.DataType.ValueType:
    return _TO_WIRE[dtype]


def dtype_from_wire(number: int) -> DType:
    """Raises ProtocolError for a number that names no type."""
    try:
        return _FROM_WIRE[stage_pb2.DataType.ValueType(number)]
    except KeyError:
        raise ProtocolError(f"data type {number} is unknown; the peer may speak a newer protocol") from None


def hidden_to_wire(hidden: HiddenStates) -> stage_pb2.Tensor:
    return stage_pb2.Tensor(dtype=_TO_WIRE[hidden.dtype], shape=(hidden.rows, hidden.width), data=hidden.data)


def hidden_from_wire(tensor: stage_pb2.Tensor, *, rows: int, width: int, dtype: DType) -> HiddenStates:
    """Raises ProtocolError unless type, shape and length are exactly those expected."""
    found = dtype_from_wire(tensor.dtype)
    if found is not dtype:
        raise ProtocolError(f"hidden states are {found.value}, this stage computes in {dtype.value}; use one type along a lane")
    if len(tensor.shape) != 2 or tensor.shape[0] != rows or tensor.shape[1] != width:
        raise ProtocolError(f"hidden states have shape {_shown(tensor.shape)}, expected [{rows}, {width}]")
    if len(tensor.data) != rows * width * dtype.itemsize:
        raise ProtocolError(f"hidden states have {len(tensor.data)} bytes, expected {rows * width * dtype.itemsize}")
    return HiddenStates(dtype, rows, width, tensor.data)


def _shown(shape: object) -> str:
    return str(list(shape)[:4])  # type: ignore[call-overload]
