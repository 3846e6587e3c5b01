"""`dsd-node doctor`: what would keep this machine from serving, and what to do. Only peers that were named are dialled."""

import asyncio
import json
import shutil
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import grpc.aio
from huggingface_hub import constants
from rich.console import Console
from rich.text import Text

from dsd_core.errors import AddressInUse, DsdError, Fault
from dsd_core.network.address import Address
from dsd_core.network.certificates import peer_id_at
from dsd_core.network.channels import SERVER_OPTIONS
from dsd_core.network.identity import PeerId
from dsd_core.network.seeds import Seeds
from dsd_core.network.status import error_of
from dsd_core.network.stubs import peer_stub
from dsd_core.network.transport import Secure
from dsd_core.wire.v1 import peer_pb2
from dsd_node.libraries import require_sound_libraries
from dsd_node.membership.lan import addresses_of_this_machine
from dsd_node.membership.place import Place, find_place
from dsd_node.membership.seat import find_seeds
from dsd_node.start import NodeConfig, bind

CALL_SECONDS = 5.0
ASKED = 3
"""Peers; more would say the same."""
CLOCK_SECONDS = 30.0
"""Nothing here hangs on clocks; but logs are hard to compare when they are further apart, and other programs may mind."""
GIB = 1 << 30


class Verdict(Enum):
    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    subject: str
    verdict: Verdict
    says: str
    """What was found, and where it is not well what to do."""


async def doctor(config: NodeConfig) -> bool:
    """Print what is found. Whether nothing is wrong."""
    found = [*await _machine(config), *await _network(config)]
    if config.json:
        findings = [asdict(finding) | {"verdict": finding.verdict.value} for finding in found]
        print(json.dumps({"well": _is_well(found), "findings": findings}), flush=True)
    else:
        _show(found)
    return _is_well(found)


def _is_well(found: Sequence[Finding]) -> bool:
    return all(finding.verdict is not Verdict.WRONG for finding in found)


def _show(found: Sequence[Finding]) -> None:
    styles = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "bold red"}
    console = Console()
    for finding in found:
        verdict = Text(f"{finding.verdict.value:<8}", styles[finding.verdict])
        console.print(Text.assemble(verdict, f"{finding.subject:<14}", finding.says), soft_wrap=True)


# -- the machine -------------------------------------------------------------------------------------------------------


async def _machine(config: NodeConfig) -> list[Finding]:
    found = [_libraries()]
    try:
        place = await asyncio.to_thread(find_place, config.model, config.device, config.dtype, config.memory, [])
    except DsdError as error:
        return [*found, Finding("model", Verdict.WRONG, str(error))]
    found.append(Finding("model", Verdict.OK, f"{place.source.name}, {place.source.num_layers} layers"))
    found.append(Finding("device", Verdict.OK, f"{place.device}, {str(place.dtype).removeprefix('torch.')}"))
    return [*found, _memory(place), _cache(place)]


def _libraries() -> Finding:
    try:
        require_sound_libraries()
    except DsdError as error:
        return Finding("libraries", Verdict.WRONG, str(error))
    return Finding("libraries", Verdict.OK, "fit to be exposed to strangers")


def _memory(place: Place) -> Finding:
    try:
        layers = len(place.layers(PeerId("")))
    except DsdError as error:
        return Finding("memory", Verdict.WRONG, str(error))
    return Finding("memory", Verdict.OK, f"{place.memory / GIB:.1f} GiB, for {layers} of {place.source.num_layers} layers")


def _cache(place: Place) -> Finding:
    """Of models of the hub; another directory is there, or the model would not have been found."""
    cache = Path(constants.HF_HUB_CACHE)
    if Path(place.source.name).is_dir():
        return Finding("model cache", Verdict.OK, "not needed: the model is a directory of this machine")
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, place.size.span_bytes(place.all_layers)
    says = f"{cache} has {free / GIB:.1f} GiB free"
    if free < needed:
        advice = f"; all layers may take {needed / GIB:.1f}: make room, set HF_HOME, or name fewer with --layers"
        return Finding("model cache", Verdict.WARNING, says + advice)
    return Finding("model cache", Verdict.OK, says)


# -- the network -------------------------------------------------------------------------------------------------------


async def _network(config: NodeConfig) -> list[Finding]:
    try:
        seeds = find_seeds(config.join, private=False, data_dir=config.data_dir)
        ends = Secure.kept_in(config.data_dir, seeds.secret)
    except DsdError as error:
        return [Finding("identity", Verdict.WRONG, str(error))]
    found = [Finding("identity", Verdict.OK, ends.peer_id)]
    async with _listening(config, ends) as (port, problem):
        if port is None:
            return [*found, Finding("port", Verdict.WRONG, problem)]
        found += [Finding("port", Verdict.OK, problem or f"{config.listen} is free"), await _tls(config, ends, port)]
        others = [address for address, peer in seeds.peers.items() if peer != ends.peer_id]
        if not others:
            return [*found, Finding("reachable", Verdict.WARNING, "nobody was asked; name a peer with --join")]
        for address in others[:ASKED]:
            found += await _peer(config, ends, seeds, address, port)
    return found


@asynccontextmanager
async def _listening(config: NodeConfig, ends: Secure) -> AsyncIterator[tuple[int | None, str]]:
    """With our key something listens at our port: our node, if it runs, or else we. None, and why, if others do."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    try:
        port = bind(server, ends, config.listen)
    except AddressInUse as error:
        running = await _answers_with_our_key(config, ends)
        yield (config.listen.port, f"your node is running at {config.listen}") if running else (None, str(error))
        return
    await server.start()
    try:
        yield port, ""
    finally:
        await server.stop(None)


async def _answers_with_our_key(config: NodeConfig, ends: Secure) -> bool:
    try:
        return await peer_id_at(_near(config, config.listen.port)) == ends.peer_id
    except DsdError:
        return False


def _near(config: NodeConfig, port: int) -> Address:
    return Address("127.0.0.1" if config.listen.is_unspecified else config.listen.host, port)


async def _tls(config: NodeConfig, ends: Secure, port: int) -> Finding:
    try:
        peer = await peer_id_at(_near(config, port))
    except DsdError as error:
        return Finding("TLS", Verdict.WRONG, f"{error}; a firewall or a proxy of this machine may be in the way")
    if peer != ends.peer_id:
        return Finding("TLS", Verdict.WRONG, f"{peer} answers at our port; something on this machine takes our connections")
    return Finding("TLS", Verdict.OK, "1.3, with our key")


async def _peer(config: NodeConfig, ends: Secure, seeds: Seeds, address: Address, port: int) -> list[Finding]:
    """What one peer says of us: how far it is, whether it reaches us, and what time it is there."""
    announced = config.announce or Address(config.listen.host, port)
    try:
        peer = seeds.peers[address] or (await ends.meet(address))[0]
        async with ends.channel(address, peer) as channel:
            await _call(channel, address, 0)  # the first one also connects
            asked_at = time.monotonic()
            empty = peer_pb2.ListPeersRequest(manifest_hash=b"\0" * 32)
            await peer_stub(channel).ListPeers(empty, timeout=CALL_SECONDS)
            round_trip = time.monotonic() - asked_at
            said = await _call(channel, address, announced.port)
    except grpc.aio.AioRpcError as failure:
        error = error_of(failure, f"the peer at {address}")
        return [Finding("peer", Verdict.WARNING if error.fault is Fault.LOAD else Verdict.WRONG, str(error))]
    except DsdError as error:
        return [Finding("peer", Verdict.WRONG, str(error))]
    far = Finding("round trip", Verdict.OK, f"{round_trip * 1000:.1f} ms to {address}")
    return [far, _clock(said, address), await _reached(said, announced, address)]


async def _call(channel: grpc.aio.Channel, address: Address, port: int) -> peer_pb2.DialBackResponse:
    return await peer_stub(channel).DialBack(peer_pb2.DialBackRequest(port=port), timeout=CALL_SECONDS)


def _clock(said: peer_pb2.DialBackResponse, address: Address) -> Finding:
    ahead = time.time() - said.unix_millis / 1000
    if abs(ahead) > CLOCK_SECONDS:
        says = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {address}; one of you should set it by NTP"
        return Finding("clock", Verdict.WARNING, says)
    return Finding("clock", Verdict.OK, f"within {CLOCK_SECONDS:.0f} s of {address}")


async def _reached(said: peer_pb2.DialBackResponse, announced: Address, address: Address) -> Finding:
    """The peer has dialled the host that our call came from. That is the one to announce."""
    seen = Address(said.host, announced.port)
    if not said.reached:
        if announced.is_loopback and not address.is_loopback:
            says = f"{announced} is for this machine alone; listen on 0.0.0.0:{announced.port}"
        else:
            says = f"{address} does not reach us ({said.reason}); open the port, or forward it in the router"
        return Finding("reachable", Verdict.WRONG, says)
    if said.host not in await _hosts(announced):
        says = f"at {seen}, but others would dial {announced}; start the node with --announce {seen}"
        return Finding("reachable", Verdict.WRONG, says)
    return Finding("reachable", Verdict.OK, f"{address} has dialled {seen} and found us")


async def _hosts(announced: Address) -> set[str]:
    """The numbers behind an address."""
    if announced.is_unspecified:
        return {address.host for address in addresses_of_this_machine(announced.port)} | {"127.0.0.1"}
    try:
        found = await asyncio.get_running_loop().getaddrinfo(announced.host, announced.port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(where[4][0]) for where in found}
