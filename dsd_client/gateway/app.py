"""The gateway's routes."""

import asyncio
import hmac
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from dsd_client.gateway import page
from dsd_client.gateway.answers import Question
from dsd_client.gateway.edge import Edge, respond, while_connected
from dsd_client.gateway.errors import Unauthorised, failure, failure_of, invalid_body
from dsd_client.gateway.forms import Form
from dsd_client.gateway.gateway import Gateway
from dsd_client.gateway.readiness import Readiness
from dsd_client.gateway.requests import Asked, ChatRequest, CompletionRequest
from dsd_client.gateway.responses import ChatCompletion, Completion, ErrorBody, Model, Models
from dsd_client.gateway.swarm_view import SwarmView, swarm_view
from dsd_core.errors import DsdError

CLIENT_CLOSED_REQUEST = 499
"""nginx's; only our own metrics see it."""
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be obeyed, or not now."},
    "5XX": {"model": ErrorBody, "description": "The swarm cannot answer."},
}
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"itemSchema": EVENT}}}}


def create_app(gateway: Gateway) -> FastAPI:
    """An ASGI application. The gateway's client must be open while it serves, on the same event loop."""
    app = FastAPI(title="DSD gateway", docs_url=None, redoc_url=None, responses=ERRORS)
    readiness = Readiness(gateway.client, gateway.metrics)
    app.include_router(_open_routes(readiness))
    app.include_router(page.routes())
    app.include_router(_kept_routes(gateway), dependencies=_key_required(gateway.config.api_key))
    app.add_middleware(Edge, metrics=gateway.metrics, only_loopback_names=gateway.config.api_key is None)
    _tell_errors(app)
    return app


# -- routes --------------------------------------------------------------------------------------------------------------


def _open_routes(readiness: Readiness) -> APIRouter:
    """For whoever watches over the gateway: they say nothing of anybody."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """The gateway is alive."""
        return {"status": "ok"}

    @routes.get("/ready")
    async def ready() -> dict[str, str]:
        """The swarm can answer: it did a moment ago, or does so now."""
        await readiness.check()
        return {"status": "ready"}

    return routes


def _kept_routes(gateway: Gateway) -> APIRouter:
    """For those who have the key, if there is one."""
    routes = APIRouter()
    model = Model(
        id=gateway.model, object="model", created=0, owned_by="dsd", max_model_len=gateway.client.target.shape.max_positions
    )

    @routes.get("/v1/models")
    async def models() -> Models:
        return {"object": "list", "data": [model]}

    @routes.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Model:
        gateway.require_model(name)
        return model

    @routes.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAM)
    async def chat_completions(asked: ChatRequest, request: Request) -> Any:
        return await _answer(gateway, request, asked, *await gateway.chat(asked))

    @routes.post("/v1/completions", response_model=Completion, responses=STREAM)
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        return await _answer(gateway, request, asked, *await gateway.completion(asked))

    @routes.get("/v1/dsd/swarm")
    async def swarm() -> SwarmView:
        """The peers and what they hold; null is what is not known."""
        return await swarm_view(gateway)

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(gateway.metrics.exposition(), media_type=PROMETHEUS)

    return routes


async def _answer(gateway: Gateway, request: Request, asked: Asked, question: Question, form: Form) -> Any:
    """Whole, or as a stream that has begun: until then an error still has a status of its own."""
    now = asyncio.get_running_loop().time()
    if not asked.stream:
        return JSONResponse(await while_connected(request.receive, gateway.whole(question, form, asked, now)))
    events = gateway.stream(question, form, asked, now)
    try:
        first = await while_connected(request.receive, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(first, events)


class EventStream(Response):
    """Server-sent events. However it ends, so do the answers behind it, at once."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._first = first
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


# -- who may ask -----------------------------------------------------------------------------------------------------------


def _key_required(api_key: str | None) -> list[Any]:
    if api_key is None:
        return []
    bearer = HTTPBearer(auto_error=False)

    async def require_key(shown: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if shown is None or not hmac.compare_digest(shown.credentials.encode(), api_key.encode()):
            raise Unauthorised("the API key is missing or wrong; send `Authorization: Bearer KEY` with this gateway's key")

    return [Depends(require_key)]


# -- errors ----------------------------------------------------------------------------------------------------------------


def _tell_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(DsdError)
    async def of_ours(_: Request, error: DsdError) -> Response:
        return respond(failure_of(error))

    @app.exception_handler(RequestValidationError)
    async def of_body(_: Request, error: RequestValidationError) -> Response:
        return respond(invalid_body(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def of_http(_: Request, error: HTTPException) -> Response:
        return respond(failure(error.status_code, str(error.detail), headers=error.headers))

    @app.exception_handler(ClientDisconnect)
    async def of_nobody(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def of_bugs(_: Request, error: Exception) -> Response:
        return respond(failure(500, "the gateway failed; its log says why"))
