"""Our errors across a call: the class by name in the trailing metadata, the message as the status text."""

import math

import grpc
import grpc.aio

from dsd_core import errors
from dsd_core.errors import DsdError, Fault, NoPeers, OutOfCapacity, PeerLost, ProtocolError, Refused, TimedOut

ERROR_KEY = "dsd-error"
RETRY_KEY = "dsd-retry-after"
"""Seconds, beside an OutOfCapacity that will pass."""

LONGEST_RETRY_SECONDS = 600.0

_CODES: dict[type[DsdError], grpc.StatusCode] = {
    OutOfCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    PeerLost: grpc.StatusCode.UNAVAILABLE,
    NoPeers: grpc.StatusCode.UNAVAILABLE,
    TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    Refused: grpc.StatusCode.FAILED_PRECONDITION,
}

_BROKEN_WRITE = "Internal error from Core"
"""What a write fails with that finds the connection gone before the call's status has come."""

_CLASSES: dict[str, type[DsdError]] = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DsdError)
}


async def abort(context: "grpc.aio.ServicerContext[object, object]", error: DsdError) -> None:
    """End a call with one of our errors. Never returns."""
    code = _CODES.get(type(error), grpc.StatusCode.INTERNAL)
    await context.abort(code, str(error), trailing_metadata=((ERROR_KEY, type(error).__name__), *_retry_hint(error)))


def error_of(failure: grpc.aio.AioRpcError, peer: str) -> DsdError:
    """The error behind a failed call to `peer`, ours where the peer named one. That we are to blame is not for it to say: what
    it refuses, another may do."""
    said = dict(failure.trailing_metadata() or ())
    kind = _CLASSES.get(str(said.get(ERROR_KEY)))
    if kind is None:
        return _transport_error(failure, peer)
    error = (kind if kind.fault >= Fault.PEER else Refused)(failure.details() or "the peer gave no reason")
    if isinstance(error, OutOfCapacity):
        error.retry_after = _seconds(said.get(RETRY_KEY))
    return error


def _retry_hint(error: DsdError) -> tuple[tuple[str, str], ...]:
    if not isinstance(error, OutOfCapacity) or error.retry_after is None:
        return ()
    return ((RETRY_KEY, f"{error.retry_after:.3f}"),)


def _seconds(hint: str | bytes | None) -> float | None:
    """A peer's word: it may be anything, and must not make us wait forever."""
    try:
        seconds = float(hint or "")
    except ValueError:
        return None
    return min(seconds, LONGEST_RETRY_SECONDS) if math.isfinite(seconds) and seconds >= 0 else None


def _transport_error(failure: grpc.aio.AioRpcError, peer: str) -> DsdError:
    match failure.code():
        case grpc.StatusCode.UNAVAILABLE if _is_impostor(failure.details()):
            return Refused(f"what answers as {peer} is not the peer that was named; ask for its address or its token again")
        case grpc.StatusCode.UNAVAILABLE:
            return PeerLost(f"{peer} cannot be reached or went away; check that its dsd-node is running")
        case grpc.StatusCode.INTERNAL if failure.details() == _BROKEN_WRITE:
            return PeerLost(f"{peer} went away in the middle of a message; check that its dsd-node is running")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimedOut(f"{peer} did not answer in time; it may be overloaded or frozen")
        case grpc.StatusCode.UNIMPLEMENTED:
            return ProtocolError(f"{peer} does not speak this protocol; run the same release of DSD on all machines")
        case grpc.StatusCode.CANCELLED:
            return PeerLost(f"{peer} ended the call; check that its dsd-node is running")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return OutOfCapacity(f"{peer} refuses a message of this size or more calls; send less")
        case code:
            return Refused(f"{peer} failed with {code.name}: {_one_line(failure.details())}")


def unreachable(error: DsdError) -> DsdError:
    """A peer that is lost before anything was asked of it was never there."""
    return NoPeers(str(error)) if isinstance(error, PeerLost) else error


def _is_impostor(details: str | None) -> bool:
    """A handshake that failed for the key that was shown; a plaintext server shows none."""
    text = details or ""
    return ("Tls handshake failed" in text or "Hostname Verification" in text) and "WRONG_VERSION_NUMBER" not in text


def _one_line(details: str | None) -> str:
    return " ".join((details or "no details").split())[:200]
