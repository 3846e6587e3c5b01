"""Our errors in OpenAI's shape: a status, a type, and the field that is at fault where there is one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from dsd_client.gateway.responses import ErrorBody
from dsd_core.errors import DsdError, Fault, ModelNotFound, OutOfCapacity, PromptTooLong, Refused, TimedOut, UsageError

RETRY_SECONDS = 2
"""After which a swarm may be whole again."""


class InvalidRequest(UsageError):
    """A request that cannot be obeyed because of one field."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(message)
        self.param = param


class Unauthorised(Refused):
    """The caller did not show the gateway's key."""

    fault = Fault.USER


@dataclass(frozen=True, slots=True)
class Failure:
    """What is said of an error, whether as a response or as an event of a stream."""

    status: int
    body: ErrorBody
    headers: Mapping[str, str]


def failure_of(error: DsdError) -> Failure:
    """The message is the error's own: it says whose fault it was and what to do."""
    status = _status(error)
    return failure(status, str(error), param=_param(error), code=_code(error), headers=_headers(error, status))


def failure(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Failure:
    detail = {"message": message, "type": _type(status), "param": param, "code": code}
    return Failure(status, {"error": detail}, headers or {})  # type: ignore[typeddict-item]


def _status(error: DsdError) -> int:
    match error:
        case Unauthorised():
            return 401
        case ModelNotFound():
            return 404
        case OutOfCapacity():
            return 429
        case TimedOut():
            return 504
        case _ if error.fault is Fault.USER:
            return 400
        case _ if error.fault is Fault.PEER:
            return 503
        case _:
            return 500


def _type(status: int) -> str:
    match status:
        case 401:
            return "authentication_error"
        case 404:
            return "not_found_error"
        case 429:
            return "rate_limit_error"
        case _:
            return "invalid_request_error" if status < 500 else "server_error"


def _code(error: DsdError) -> str | None:
    match error:
        case Unauthorised():
            return "invalid_api_key"
        case PromptTooLong():
            return "context_length_exceeded"
        case InvalidRequest() | UsageError():
            return "invalid_value"
        case _:
            return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()


def _param(error: DsdError) -> str | None:
    match error:
        case InvalidRequest():
            return error.param
        case ModelNotFound():
            return "model"
        case _:
            return None


def _headers(error: DsdError, status: int) -> dict[str, str]:
    match error:
        case OutOfCapacity() if error.retry_after is not None:
            return {"Retry-After": str(max(1, ceil(error.retry_after)))}
        case Unauthorised():
            return {"WWW-Authenticate": "Bearer"}
        case _:
            return {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}


def invalid_body(errors: list[Any]) -> Failure:
    """The first thing that is wrong with a request, which pydantic found; its value is not repeated."""
    first = min(errors, key=_depth_first)
    place = [str(part) for part in first["loc"][1:] if not _is_a_type(part)]
    context = first.get("ctx", {})
    param = context.get("name") or ".".join(place) or None
    code = first["type"] if first["type"] == "unsupported_parameter" else "invalid_value"
    message = first["msg"] if first["type"] == "unsupported_parameter" else f"{param or 'the request'}: {first['msg']}"
    return failure(400, message, param=param, code=code)


def _depth_first(error: Any) -> int:
    """Of a union's complaints, the one that got furthest: it is of the type that was meant."""
    return -len(error["loc"])


def _is_a_type(part: object) -> bool:
    """pydantic puts the members of a union into the path."""
    return (isinstance(part, str) and not re.fullmatch(r"[a-z_0-9]+", part)) or part in ("str", "TextPart")
