"""`dsd-node start`: load a span, listen, say so, serve until told to stop."""

import asyncio
import gc
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from dsd_core.errors import AddressInUse, InvalidSpan, UsageError
from dsd_core.membership.record import State
from dsd_core.model.source import ModelSource, resolve
from dsd_core.model.span import Span
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.channels import SERVER_OPTIONS
from dsd_core.network.identity import PeerId
from dsd_core.network.join_token import JoinToken
from dsd_core.network.transport import Secure, Transport, transport
from dsd_core.wire.v1 import peer_pb2_grpc, stage_pb2_grpc
from dsd_node.admission import Admission
from dsd_node.engine import Engine
from dsd_node.health import Health
from dsd_node.libraries import require_sound_libraries
from dsd_node.peer_service import PeerService
from dsd_node.quotas import PEER_SHARE, Quotas
from dsd_node.seat import Seat, find_seeds
from dsd_node.service import StageService, limits_of
from dsd_node.statement import target_statement

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node serves, and where."""

    model: str
    layers: str | None
    """A:B for the layers [A, B); None for all."""
    listen: Address
    announce: Address | None = None
    """The address that others dial, where it is not the one listened on."""
    device: str = "auto"
    dtype: str = "auto"
    json: bool = False
    data_dir: Path | None = None
    """Where the node's key is kept; with None it has one for this run alone."""
    insecure_loopback: bool = False
    """Without TLS, for programs of this machine."""
    peer_share: float = PEER_SHARE
    """The most that one peer may hold of the node's memory, sessions and calls."""
    join: Sequence[str] = ()
    """Addresses or tokens of peers; with none, whom the node knew last, or nobody."""
    private: bool = False
    """In a swarm for holders of its token alone."""
    lan: bool = True
    """To be found on the LAN, and to find others there, unless the node listens on loopback."""
    round_seconds: float = 1.0
    """Of gossip."""


async def serve(config: NodeConfig, load: Callable[[NodeConfig], Span] | None = None) -> None:
    """Serve until cancelled. Raises DsdError for whatever keeps the node from starting. `load` gets the span, else from the
    model's files; it runs in a thread."""
    require_sound_libraries()
    seeds = find_seeds(config.join, private=config.private, data_dir=config.data_dir)
    ends = transport(config.data_dir, insecure_loopback=config.insecure_loopback, secret=seeds.secret)
    # Without TLS nobody is known, and records of nobody are worth nothing.
    seat = Seat(ends, seeds, config.data_dir, config.round_seconds) if isinstance(ends, Secure) else None
    if config.join and not seat:
        raise UsageError("nodes without TLS do not find each other; leave out --join, and name each to the client")
    engine = Engine(await asyncio.to_thread(load or _load, config))
    source = resolve(config.model)
    quotas = Quotas(limits_of(engine, source, config.peer_share))
    service = StageService(source, engine, ends, quotas)
    admission = Admission(ends, quotas, BannedPeers(config.data_dir))
    health = Health(engine)
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[admission])
    stage_pb2_grpc.add_StageServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    if seat:
        peer_pb2_grpc.add_PeerServiceServicer_to_server(PeerService(seat.gossiper), server)
    port = _bind(server, ends, config.listen)
    await server.start()
    gc.freeze()  # what is loaded by now stays; looking through it again and again would only cost pauses
    addresses = _addresses(config, port)
    if seat:
        seat.gossiper.say(lambda: target_statement(addresses, State.SERVING, source, engine, quotas))
    token = seat.token(addresses[0]) if seat else JoinToken(((addresses[0], ends.peer_id),))
    _say_ready(config, source, engine.span, addresses[0], ends.peer_id, token)
    try:
        async with asyncio.TaskGroup() as tasks:
            if seat:
                tasks.create_task(seat.run(addresses[0], on_lan=config.lan))
            tasks.create_task(service.close_idle())
            tasks.create_task(admission.watch_bans())
            tasks.create_task(health.watch())
    finally:
        await health.drain()
        await service.close()
        await server.stop(GRACE_SECONDS)
        engine.close()


def parse_layers(layers: str | None, num_layers: int) -> range:
    """`A:B` as the layers [A, B). Raises InvalidSpan."""
    if layers is None:
        return range(num_layers)
    first, separator, end = layers.partition(":")
    if not separator or not (layers.isascii() and first.isdigit() and end.isdigit()):
        raise InvalidSpan(f"{layers!r} names no layers; write A:B for the layers from A up to, not including, B")
    return range(int(first), int(end))


def _load(config: NodeConfig) -> Span:
    source = resolve(config.model)
    layers = parse_layers(config.layers, source.num_layers)
    console = Console(stderr=True)
    columns = (TextColumn("loading"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading", total=None)
        return Span.load(
            source,
            layers,
            device=config.device,
            dtype=config.dtype,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _bind(server: grpc.aio.Server, ends: Transport, listen: Address) -> int:
    try:
        port = ends.listen(server, listen)
    except RuntimeError:
        port = 0
    if port == 0:
        raise AddressInUse(f"cannot listen on {listen}; another program does, or it is not this machine's: try another")
    return port


def _addresses(config: NodeConfig, port: int) -> tuple[Address, ...]:
    """Where others reach us, the best first."""
    if config.announce:
        return (config.announce,)
    bound = Address(config.listen.host, port)
    if not bound.is_unspecified:
        return (bound,)
    from dsd_node.lan import addresses_of_this_machine

    found = addresses_of_this_machine(port)
    log.warning("others dial %s; if they reach this machine by another address, name it with --announce", found[0])
    return found


def _say_ready(
    config: NodeConfig, source: ModelSource, span: Span, address: Address, peer: PeerId, join: JoinToken
) -> None:
    """On one line, with what others need to join: the address, and a token that says who must answer there."""
    token = join.encode()
    layers = [span.layers.start, span.layers.stop]
    if config.json:
        says = {"address": str(address), "peer_id": peer, "join": token, "model": source.name, "layers": layers}
        print(json.dumps({"event": "ready", **says}), flush=True)
    else:
        print(f"ready: layers {layers[0]}:{layers[1]} of {source.name} on {address}", file=sys.stderr)
        print(f"join with --join {token}", file=sys.stderr, flush=True)
