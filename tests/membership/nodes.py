"""Nodes that gossip behind real sockets, and hold no model."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from dsd_core.membership.ids import PeerId
from dsd_core.membership.record import Capacity, Role, State
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.channels import SERVER_OPTIONS
from dsd_core.network.transport import Secure
from dsd_core.wire.v1 import peer_pb2_grpc
from dsd_node.admission import Admission
from dsd_node.membership.peer_service import PeerService
from dsd_node.membership.seat import Seat, find_seeds
from dsd_node.membership.statement import Statement
from dsd_node.quotas import Limits, Quotas
from tests.membership.conftest import HOLDING

ROUND_SECONDS = 0.05


@dataclass
class GossipNode:
    transport: Secure
    seat: Seat
    server: grpc.aio.Server
    address: Address
    running: "asyncio.Task[None]"

    @classmethod
    async def start(
        cls, join: Sequence[str] = (), data_dir: Path | None = None, *, private: bool = False, port: int = 0
    ) -> "GossipNode":
        seeds = find_seeds(join, private=private, data_dir=data_dir)
        transport = Secure.kept_in(data_dir, seeds.secret)
        seat = Seat(transport, seeds, data_dir, ROUND_SECONDS)
        quotas = Quotas(Limits(kv_bytes=1))
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[Admission(transport, quotas, BannedPeers(None))])
        peer_pb2_grpc.add_PeerServiceServicer_to_server(PeerService(seat.gossiper), server)
        address = Address("127.0.0.1", transport.listen(server, Address("127.0.0.1", port)))
        await server.start()
        said = Statement((address,), Role.TARGET, State.SERVING, HOLDING, Capacity(1, 1))
        seat.gossiper.say(lambda: said)
        return cls(transport, seat, server, address, asyncio.create_task(seat.run(address, on_lan=False)))

    @property
    def peer(self) -> PeerId:
        return self.transport.peer_id

    @property
    def token(self) -> str:
        return self.seat.token(self.address).encode()

    @property
    def knows(self) -> set[PeerId]:
        return {signed.record.peer for signed in self.seat.gossiper.records}

    async def kill(self) -> None:
        self.running.cancel()
        await asyncio.wait([self.running])
        await self.server.stop(None)
