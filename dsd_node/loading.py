"""What a server answers before its layers are there, and the services that come with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import grpc.aio

from dsd_core.errors import Refused
from dsd_core.network.status import abort

STAGE_SERVICE = "/dsd.v1.StageService/"
DRAFT_SERVICE = "/dsd.v1.DraftService/"
HEALTH_SERVICE = "/grpc.health.v1.Health/"


class LateServices(grpc.GenericRpcHandler):
    """Services may be added to it, as to a server, while its server runs: a server itself takes none then.

    Until there is one for an `awaited` service its calls are refused, with the reason.
    """

    def __init__(self, *awaited: str) -> None:
        self._awaited = awaited
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """The same again in another form, which only a server at rest can use."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        handlers = (handler.service(handler_call_details) for handler in self._handlers)
        found = next((handler for handler in handlers if handler is not None), None)
        if found is None and handler_call_details.method.startswith(self._awaited):
            return grpc.stream_stream_rpc_method_handler(_refuse)
        return found


async def _refuse(requests: Any, context: Any) -> None:
    await abort(context, Refused("this node is still loading its layers; try again in a moment, or another node"))
