"""Between torch tensors and hidden states on the wire."""

import torch

from dsd_core.wire.hidden import DType, HiddenStates

_TORCH = {DType.FLOAT32: torch.float32, DType.BFLOAT16: torch.bfloat16, DType.FLOAT16: torch.float16}
_WIRE = {dtype: name for name, dtype in _TORCH.items()}


def wire_dtype(dtype: torch.dtype) -> DType:
    """The wire's name for a dtype that stages compute in."""
    return _WIRE[dtype]


def pack(hidden: torch.Tensor) -> HiddenStates:
    """[rows, width], of a wire dtype, to bytes."""
    rows, width = hidden.shape
    data = hidden.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return HiddenStates(_WIRE[hidden.dtype], rows, width, data)


def unpack(hidden: HiddenStates) -> torch.Tensor:
    """Bytes to [rows, width]. The codec has checked that they are as many as they should be."""
    raw = torch.frombuffer(bytearray(hidden.data), dtype=_TORCH[hidden.dtype])
    return raw.view(hidden.rows, hidden.width)
