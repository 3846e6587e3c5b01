"""The RPCs by which peers find each other."""

import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from dsd_core.errors import ProtocolError, UsageError
from dsd_core.membership.membership import MAX_RECORDS
from dsd_core.membership.record import SignedRecord
from dsd_core.network.address import Address
from dsd_core.network.certificates import caller
from dsd_core.network.identity import peer_id_of
from dsd_core.wire.gossip import request_from_wire, response_to_wire
from dsd_core.wire.records import signed_to_wire
from dsd_core.wire.v1 import peer_pb2, peer_pb2_grpc
from dsd_node.answering import answering
from dsd_node.dial_back import DialBack, calling_host
from dsd_node.membership.gossip import Gossiper

Context: TypeAlias = Any
"""gRPC's, which differs in type parameters from method to method."""

MAX_PORT = 65535


class PeerService(peer_pb2_grpc.PeerServiceServicer):
    """Lets other peers reach the gossiper. Who calls is known and admitted already (admission.py)."""

    def __init__(self, gossiper: Gossiper) -> None:
        self._gossiper = gossiper
        self._dial_back = DialBack()

    async def Exchange(self, request: peer_pb2.ExchangeRequest, context: Context) -> peer_pb2.ExchangeResponse:
        async with answering(context):
            return response_to_wire(await self._gossiper.answer(request_from_wire(request)))

    async def Probe(self, request: peer_pb2.ProbeRequest, context: Context) -> peer_pb2.ProbeResponse:
        async with answering(context):
            try:
                peer = peer_id_of(request.peer)
            except UsageError as error:
                raise ProtocolError(str(error)) from None
            return peer_pb2.ProbeResponse(alive=await self._gossiper.is_alive(peer))

    async def ListPeers(self, request: peer_pb2.ListPeersRequest, context: Context) -> peer_pb2.ListPeersResponse:
        wanted = request.manifest_hash.hex()
        return peer_pb2.ListPeersResponse(
            records=_holders(self._gossiper.records, wanted), suspected=_holders(self._gossiper.suspected, wanted)
        )

    async def DialBack(self, request: peer_pb2.DialBackRequest, context: Context) -> peer_pb2.DialBackResponse:
        async with answering(context):
            if request.port > MAX_PORT:
                raise ProtocolError(f"{request.port} is no port")
            host = calling_host(context.peer())
            response = peer_pb2.DialBackResponse(host=host, unix_millis=int(time.time() * 1000))
            if request.port:
                response.reason = await self._dial_back.reaches(caller(context), Address(host, request.port))
                response.reached = not response.reason
            return response


def _holders(records: Sequence[SignedRecord], manifest_hash: str) -> list[peer_pb2.SignedRecord]:
    found = [signed for signed in records if manifest_hash in ("", signed.record.holding.manifest_hash)]
    return [signed_to_wire(signed, 0.0) for signed in found[:MAX_RECORDS]]
