"""What holds for every request, before anything of it is understood: who is called, how much may be sent, what is counted."""

import asyncio
import uuid
from collections.abc import Coroutine, MutableMapping
from typing import Any, TypeVar

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsd_client.gateway.errors import Failure, failure
from dsd_client.gateway.metrics import Metrics

MAX_BODY_BYTES = 4 << 20
TOO_LONG = f"the request is longer than {MAX_BODY_BYTES} bytes; send less"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Value = TypeVar("Value")


class Edge:
    """ASGI middleware. `only_loopback_names` refuses requests for other hosts: a web page elsewhere whose name was made to
    point to this machine (DNS rebinding) cannot use a gateway that asks for no key."""

    def __init__(self, app: ASGIApp, metrics: Metrics, only_loopback_names: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._only_loopback_names = only_loopback_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sender = _Sender(scope, send, self._metrics)
        refusal = self._refusal(Headers(scope=scope))
        if refusal is not None:
            await respond(refusal)(scope, receive, sender)
        else:
            await self._app(scope, _bounded(receive), sender)

    def _refusal(self, headers: Headers) -> Failure | None:
        if self._only_loopback_names and _host(headers.get("host", "")) not in LOOPBACK_NAMES:
            return failure(403, "this gateway has no key and answers this machine only; call it by 127.0.0.1 or localhost")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            return failure(413, TOO_LONG)
        return None


class _Sender:
    """Adds the headers of every response, and counts it once its status is known."""

    def __init__(self, scope: Scope, send: Send, metrics: Metrics) -> None:
        self._scope = scope
        self._send = send
        self._metrics = metrics

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._metrics.requests.labels(_path(self._scope), message["status"]).inc()
            headers = MutableHeaders(scope=message)
            headers.setdefault("X-Request-Id", uuid.uuid4().hex)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _path(scope: MutableMapping[str, Any]) -> str:
    """The route's, not the caller's: a metric has few labels."""
    return getattr(scope.get("route"), "path", "other")


def _host(header: str) -> str:
    name, separator, port = header.rpartition(":")
    return name if separator and port.isdecimal() else header


def _bounded(receive: Receive) -> Receive:
    received = 0

    async def bounded() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY_BYTES:
            raise HTTPException(413, TOO_LONG)
        return message

    return bounded


def respond(refusal: Failure) -> JSONResponse:
    return JSONResponse(refusal.body, refusal.status, dict(refusal.headers))


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Value]) -> Value:
    """Work that is cancelled when the caller hangs up; then ClientDisconnect is raised. It is cancelled once, and has the
    time that it takes to close its sessions: anyio's scopes, which Starlette would use here, cancel that too."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
