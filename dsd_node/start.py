"""`dsd-node start`: load a span, listen, say so, serve until told to stop."""

import asyncio
import gc
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from dsd_core import embedded
from dsd_core.errors import AddressInUse, InvalidSpan, NoPeers, UsageError
from dsd_core.membership.record import Role
from dsd_core.model import tensors
from dsd_core.model.source import ModelSource
from dsd_core.model.span import Span
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.channels import SERVER_OPTIONS
from dsd_core.network.identity import PeerId
from dsd_core.network.join_token import JoinToken
from dsd_core.network.seeds import Seeds
from dsd_core.network.transport import Secure, Transport, transport
from dsd_core.wire.v1 import drafter_pb2_grpc, peer_pb2_grpc, stage_pb2_grpc
from dsd_node.admission import Admission
from dsd_node.draft_service import DraftService
from dsd_node.drain import drain, stop_signal
from dsd_node.engine import Engine
from dsd_node.health import Health
from dsd_node.libraries import require_sound_libraries
from dsd_node.loading import DRAFT_SERVICE, HEALTH_SERVICE, STAGE_SERVICE, LateServices
from dsd_node.membership.mover import needed_elsewhere
from dsd_node.membership.newcomer import Newcomer
from dsd_node.membership.peer_service import PeerService
from dsd_node.membership.place import Place, find_place
from dsd_node.membership.seat import Seat, find_seeds
from dsd_node.membership.statement import joining_statement, serving_statement
from dsd_node.metrics import Metrics
from dsd_node.quotas import PEER_SHARE, Limits, Quotas
from dsd_node.service import StageService, limits_of

log = logging.getLogger(__name__)

GRACE_SECONDS = 2.0
SEED_ROUNDS = 30.0
LAN_ROUNDS = 3.0
"""How long others are waited for, where they may say what to serve: those that were named, and those that may be near."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node serves, and where."""

    model: str | None
    """A directory or hub id; None for the model that the swarm serves, or else the embedded one."""
    layers: str | None
    """A:B for the layers [A, B); None for those that fit and that the swarm lacks most."""
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
    memory: int | None = None
    """Bytes that weights and sessions may take; None for what is free, with headroom."""
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
    role: Role = Role.TARGET
    metrics: Address | None = None
    """Where Prometheus may ask, if it may."""


Load = Callable[[Place, range], Span]
"""Gets the layers of a model. It runs in a thread."""


async def serve(config: NodeConfig, load: Load | None = None) -> None:
    """Serve until told to stop. Raises DsdError for whatever keeps the node from starting.

    Where the choice of layers is ours, go over to others when the swarm needs them much more.
    """
    require_sound_libraries()
    seeds = find_seeds(config.join, private=config.private, data_dir=config.data_dir)
    ends = transport(config.data_dir, insecure_loopback=config.insecure_loopback, secret=seeds.secret)
    if config.join and not isinstance(ends, Secure):
        raise UsageError("nodes without TLS do not find each other; leave out --join, and name each to the client")
    metrics = Metrics()
    life: tuple[NodeConfig, Seeds] | None = (config, seeds)
    async with metrics.served(config.metrics) if config.metrics else nullcontext():
        while life is not None:
            life = await _serve_layers(*life, ends, load or _load, metrics)
            gc.unfreeze()
            gc.collect()


async def _serve_layers(
    config: NodeConfig, seeds: Seeds, ends: Transport, load: Load, metrics: Metrics
) -> tuple[NodeConfig, Seeds] | None:
    """Returns with what to go on, for other layers of the model; or None when told to stop."""
    # Without TLS nobody is known, and records of nobody are worth nothing.
    seat = Seat(ends, seeds, config.data_dir, config.round_seconds) if isinstance(ends, Secure) else None
    quotas = Quotas(Limits(peer_share=config.peer_share))
    metrics.watch(quotas, lambda: [signed.record for signed in seat.gossiper.records] if seat else [])
    admission = Admission(ends, quotas, BannedPeers(config.data_dir), metrics)
    late = LateServices(DRAFT_SERVICE if config.role is Role.DRAFTER else STAGE_SERVICE, HEALTH_SERVICE)
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=[admission])
    server.add_generic_rpc_handlers((late,))
    if seat:
        peer_pb2_grpc.add_PeerServiceServicer_to_server(PeerService(seat.gossiper), server)
    port = bind(server, ends, config.listen)
    addresses = _addresses(config, port)
    newcomer = Newcomer(ends.peer_id, seat.gossiper, config.round_seconds) if seat else None
    await server.start()  # before the layers are there: others are to hear that they will be
    try:
        async with _seated(seat, addresses[0], on_lan=config.lan) if seat else nullcontext() as sitting:
            place, layers = await _choose(config, seat, newcomer, addresses, ends.peer_id)
            engine = Engine(await asyncio.to_thread(load, place, layers))
            quotas.grant(_session_memory(config, engine, place.source))
            service = StageService(place.source, engine, ends, quotas, metrics)
            health = Health(engine)
            if config.role is Role.DRAFTER:
                drafts = await asyncio.to_thread(DraftService, place.source, engine, ends, quotas, metrics)
                drafter_pb2_grpc.add_DraftServiceServicer_to_server(drafts, late)  # type: ignore[arg-type]
            else:
                stage_pb2_grpc.add_StageServiceServicer_to_server(service, late)  # type: ignore[arg-type]  # it calls two methods
            health_pb2_grpc.add_HealthServicer_to_server(health.servicer, late)
            gc.freeze()  # what is loaded by now stays; looking through it again and again would only cost pauses
            needed: range | None = None
            try:
                await engine.canary()  # so that what we say of our speed is measured
                if seat:
                    seat.gossiper.say(
                        lambda: serving_statement(config.role, addresses, service.state, place.source, engine, quotas)
                    )
                token = seat.token(addresses[0]) if seat else JoinToken(((addresses[0], ends.peer_id),))
                _say_ready(config, place.source, engine.span, addresses[0], ends.peer_id, token)
                async with asyncio.TaskGroup() as tasks:
                    jobs = [service.close_idle(), service.tidy(), admission.watch_bans(), health.watch()]
                    jobs += [_end_of(sitting)] if sitting else []
                    watching = [tasks.create_task(job) for job in jobs]
                    stop = stop_signal()
                    movable = config.layers is None and config.role is Role.TARGET
                    needed = await _stopped_or_needed(stop, newcomer if movable else None, place, layers)
                    if seat and needed is not None:
                        seat.gossiper.say(partial(joining_statement, config.role, addresses, place, needed))
                    await drain(service, health)
                    for task in watching:
                        task.cancel()
                if seat is None or needed is None or stop.is_set():
                    return None
                here = Address(config.listen.host, port)
                return replace(config, model=place.source.name, listen=here), Seeds.of(seat.token(addresses[0]))
            finally:
                if seat and needed is None:
                    await seat.gossiper.leave()
                await health.drain()
                await service.close()
                engine.close()
    finally:
        await server.stop(GRACE_SECONDS)


@asynccontextmanager
async def _seated(seat: Seat, address: Address, *, on_lan: bool) -> AsyncIterator["asyncio.Task[None]"]:
    """In the swarm meanwhile, by the task that it yields."""
    sitting = asyncio.create_task(seat.run(address, on_lan=on_lan))
    try:
        yield sitting
    finally:
        sitting.cancel()
        await asyncio.wait([sitting])


async def _end_of(task: "asyncio.Task[None]") -> None:
    await task


def parse_layers(layers: str) -> range:
    """`A:B` as the layers [A, B). Raises InvalidSpan."""
    first, separator, end = layers.partition(":")
    if not separator or not (layers.isascii() and first.isdigit() and end.isdigit()):
        raise InvalidSpan(f"{layers!r} names no layers; write A:B for the layers from A up to, not including, B")
    return range(int(first), int(end))


async def _stopped_or_needed(
    stop: asyncio.Event, newcomer: Newcomer | None, place: Place, layers: range
) -> range | None:
    """Returns when we are told to stop, or else the layers that the swarm needs of us instead of these."""
    if newcomer is None:
        await stop.wait()
        return None
    stopping = asyncio.create_task(stop.wait())
    needed = asyncio.create_task(needed_elsewhere(newcomer, place, layers))
    try:
        await asyncio.wait([stopping, needed], return_when=asyncio.FIRST_COMPLETED)
        return needed.result() if needed.done() else None
    finally:
        stopping.cancel()
        needed.cancel()


async def _choose(
    config: NodeConfig, seat: Seat | None, newcomer: Newcomer | None, addresses: tuple[Address, ...], peer: PeerId
) -> tuple[Place, range]:
    """What the options name; what they leave open, as the swarm needs it."""
    if config.role is Role.DRAFTER:
        return await _choose_drafter(config, seat, addresses)
    records = await newcomer.look_about(_patience(config, seat)) if newcomer and seat else []
    if config.join and config.model is None and not records:
        raise NoPeers("nobody that --join names answers and says what to serve; check that they run, or name a --model")
    place = await asyncio.to_thread(find_place, config.model, config.device, config.dtype, config.memory, records)
    claim = partial(joining_statement, config.role, addresses, place)
    if config.layers is not None:
        layers = parse_layers(config.layers)
    else:
        layers = await newcomer.settle(place, claim) if newcomer else place.layers(peer)
    if seat:
        seat.gossiper.say(partial(claim, layers))
    return place, layers


async def _choose_drafter(
    config: NodeConfig, seat: Seat | None, addresses: tuple[Address, ...]
) -> tuple[Place, range]:
    """A whole model, whatever the swarm serves. Raises InvalidSpan for a part of one."""
    model = config.model or str(embedded.DRAFTER)
    place = await asyncio.to_thread(find_place, model, config.device, config.dtype, config.memory, [])
    if config.layers is not None and parse_layers(config.layers) != place.all_layers:
        raise InvalidSpan(f"a drafter holds a whole model, and {config.layers} is a part of one; leave --layers out")
    if seat:
        seat.gossiper.say(partial(joining_statement, config.role, addresses, place, place.all_layers))
    return place, place.all_layers


def _patience(config: NodeConfig, seat: Seat) -> float:
    """Rounds of gossip to wait for others before we go on alone."""
    if config.model is not None and config.layers is not None:
        return 0.0  # nothing hangs on them
    return SEED_ROUNDS if seat.has_seeds else LAN_ROUNDS if config.lan and not config.listen.is_loopback else 0.0


def _load(place: Place, layers: range) -> Span:
    console = Console(stderr=True)
    columns = (TextColumn(f"loading layers {layers.start}:{layers.stop}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("loading", total=None)
        return Span.load(
            place.source,
            layers,
            device=str(place.device),
            dtype=tensors.wire_dtype(place.dtype).value,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )


def _session_memory(config: NodeConfig, engine: Engine, source: ModelSource) -> int:
    """Bytes for sessions, beside the weights."""
    kv_bytes = limits_of(engine, source, config.peer_share).kv_bytes
    return kv_bytes if config.memory is None else max(0, min(kv_bytes, config.memory - engine.span.weight_bytes))


def bind(server: grpc.aio.Server, ends: Transport, listen: Address) -> int:
    """The port. Raises AddressInUse."""
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
    from dsd_node.membership.lan import addresses_of_this_machine

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
        what = "drafting with" if config.role is Role.DRAFTER else f"layers {layers[0]}:{layers[1]} of"
        print(f"ready: {what} {source.name} on {address}", file=sys.stderr)
        print(f"join with --join {token}", file=sys.stderr, flush=True)
