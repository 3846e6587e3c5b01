"""`dsd-node health`: what load balancers ask by the gRPC health service, over our own TLS."""

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dsd_core.errors import Refused
from dsd_core.network.seeds import Seeds
from dsd_core.network.status import error_of, unreachable
from dsd_core.network.transport import transport

SECONDS = 5.0


async def require_healthy(peer: str, *, insecure_loopback: bool) -> None:
    """`peer` is an address or a join token. Raises NoPeers, Refused or TimedOut unless that node serves."""
    seeds = Seeds.parse([peer])
    address, expected = next(iter(seeds.peers.items()))
    # As nobody in particular: whoever asks every few seconds should not take the place of a peer who works.
    ends = transport(None, insecure_loopback=insecure_loopback, secret=seeds.secret)
    met = expected or (await ends.meet(address))[0]
    async with ends.channel(address, met) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.aio.AioRpcError as failure:
            raise unreachable(error_of(failure, f"the node at {address}")) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise Refused(f"the node at {address} does not serve right now: it drains, or does not compute; its log says which")
