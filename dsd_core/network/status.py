"""Our errors across a call: the class by name in the trailing metadata, the message as the status text."""

import grpc
import grpc.aio

from dsd_core import errors
from dsd_core.errors import DsdError, NoPeers, PeerLost, ProtocolError, Refused, TimedOut

ERROR_KEY = "dsd-error"

_CODES: dict[type[DsdError], grpc.StatusCode] = {
    errors.OutOfCapacity: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PromptTooLong: grpc.StatusCode.OUT_OF_RANGE,
    errors.PeerLost: grpc.StatusCode.UNAVAILABLE,
    errors.NoPeers: grpc.StatusCode.UNAVAILABLE,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Refused: grpc.StatusCode.FAILED_PRECONDITION,
}

_BROKEN_WRITE = "Internal error from Core"
"""What a write fails with that finds the connection gone before the call's status has come."""

_CLASSES: dict[str, type[DsdError]] = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DsdError)
}


async def abort(context: "grpc.aio.ServicerContext[object, object]", error: DsdError) -> None:
    """End a call with one of our errors. Never returns."""
    code = _CODES.get(type(error), grpc.StatusCode.INTERNAL)
    await context.abort(code, str(error), trailing_metadata=((ERROR_KEY, type(error).__name__),))


def error_of(failure: grpc.aio.AioRpcError, peer: str) -> DsdError:
    """The error behind a failed call to `peer`, ours where the peer named one."""
    name = dict(failure.trailing_metadata() or ()).get(ERROR_KEY)
    kind = _CLASSES.get(str(name))
    if kind is not None:
        return kind(failure.details() or "the peer gave no reason")
    return _transport_error(failure, peer)


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
            return errors.OutOfCapacity(f"{peer} refuses a message of this size or more calls; send less")
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
