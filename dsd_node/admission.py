"""What every call of every service goes through first."""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from dsd_core.errors import DsdError, ProtocolError, Refused
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.identity import PeerId
from dsd_core.network.status import abort
from dsd_core.network.transport import Transport
from dsd_node.metrics import Metrics
from dsd_node.quotas import Quotas

_HANDLER_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Admission(grpc.aio.ServerInterceptor):
    """A call has a caller who is proven, is not banned, and has not too many calls under way."""

    def __init__(
        self, transport: Transport, quotas: Quotas, banned: BannedPeers, metrics: Metrics | None = None
    ) -> None:
        self._transport = transport
        self._quotas = quotas
        self._banned = banned
        self._metrics = metrics or Metrics()
        self._calls: defaultdict[PeerId, set[asyncio.Task[Any]]] = defaultdict(set)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler)

    async def watch_bans(self, *, every: float = 1.0) -> None:
        """Runs as long as the node does: ends the calls of a peer that was banned in their midst, who may stream for hours."""
        while True:
            await asyncio.sleep(every)
            for peer in [peer for peer in self._calls if peer in self._banned]:
                for call in self._calls[peer]:
                    call.cancel()

    def _guarded(self, handler: Any) -> Any:
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        parse, serialize = self._parser(handler.request_deserializer), self._serializer(handler.response_serializer)

        # A single request is parsed in here: gRPC would do it before anybody asked who calls, and log what it cannot parse.
        def parsed(request: Any) -> Any:
            return request if handler.request_streaming else parse(request)

        async def call(request: Any, context: Any) -> Any:
            async with self._metered(context), self._admitted(context):
                return await inner(parsed(request), context)

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            async with self._metered(context), self._admitted(context):
                async for response in inner(parsed(request), context):
                    yield response

        guarded = generate if inspect.isasyncgenfunction(inner) else call
        make = _HANDLER_MAKERS[handler.request_streaming, handler.response_streaming]
        return make(guarded, parse if handler.request_streaming else None, serialize)

    @asynccontextmanager
    async def _metered(self, context: Any) -> AsyncIterator[None]:
        try:
            yield
        except grpc.aio.AbortError:
            self._metrics.on_failed_call(context.code().name.lower())
            raise

    @asynccontextmanager
    async def _admitted(self, context: Any) -> AsyncIterator[None]:
        try:
            peer = self._transport.caller(context)
            self._require_not_banned(peer)
            claim = self._quotas.begin_call(peer)
        except DsdError as error:
            await abort(context, error)
        task = asyncio.current_task()
        assert task is not None, "gRPC runs each call in a task"
        self._calls[peer].add(task)
        try:
            yield
        except DsdError as error:
            await abort(context, error)
        except asyncio.CancelledError:
            if peer in self._banned:
                await abort(context, _banned())
            raise
        finally:
            self._quotas.end_call(claim)
            self._calls[peer].discard(task)
            if not self._calls[peer]:
                del self._calls[peer]

    def _require_not_banned(self, peer: PeerId) -> None:
        if peer in self._banned:
            raise _banned()

    def _parser(self, deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        def parse(content: bytes) -> Any:
            self._metrics.on_received(len(content))
            try:
                return deserializer(content) if deserializer else content
            except DecodeError:
                raise ProtocolError("this is no message of the protocol; run the same release of DSD on both ends") from None

        return parse

    def _serializer(self, serializer: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
        def serialize(message: Any) -> bytes:
            content = serializer(message) if serializer else bytes(message)
            self._metrics.on_sent(len(content))
            return content

        return serialize


def _banned() -> Refused:
    return Refused("this node has banned you; its owner knows why. Choose another")
