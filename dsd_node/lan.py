"""Nodes of one swarm that find each other on a LAN, by multicast DNS: nobody has to be named."""

import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import ifaddr
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from dsd_core.errors import UsageError
from dsd_core.membership.ids import PeerId
from dsd_core.network.address import Address
from dsd_core.network.identity import parse_peer_id

log = logging.getLogger(__name__)

SERVICE = "_dsd._tcp.local."
PEER, SWARM = b"peer", b"swarm"
ASK_MILLIS = 3000
MAX_ADDRESSES = 3

Introduce = Callable[[PeerId, tuple[Address, ...]], None]


def addresses_of_this_machine(port: int) -> tuple[Address, ...]:
    """Where others on the LAN may reach a port that listens on all interfaces; loopback, where there is no LAN."""
    found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    usable = [ip for ip in found if not ipaddress.ip_address(ip).is_loopback]
    return tuple(Address(ip, port) for ip in usable[:MAX_ADDRESSES]) or (Address("127.0.0.1", port),)


@asynccontextmanager
async def lan(
    peer: PeerId, swarm: bytes, address: Address, introduce: Introduce, interfaces: Sequence[str] | None = None
) -> AsyncIterator[None]:
    """As long as it is open, we are to be found on the LAN, and `introduce` is called for the others of our swarm.

    What a stranger claims there is no more than a hint whom to dial: who answers has to prove that it is that peer.
    """
    zeroconf = AsyncZeroconf(interfaces=list(interfaces or [address.host]), ip_version=IPVersion.V4Only)
    finder = _Finder(peer, swarm, introduce)
    try:
        await zeroconf.async_register_service(_announcement(peer, swarm, address))
        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[finder.on_change])
        yield
        await browser.async_cancel()
    finally:
        await zeroconf.async_close()


class _Finder:
    def __init__(self, peer: PeerId, swarm: bytes, introduce: Introduce) -> None:
        self._peer = peer
        self._swarm = swarm
        self._introduce = introduce

    def on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._meet(info)

    def _meet(self, info: AsyncServiceInfo) -> None:
        said = info.properties
        try:
            peer = parse_peer_id((said.get(PEER) or b"").decode("ascii"))
        except (UnicodeDecodeError, UsageError):
            return
        addresses = tuple(Address(host, info.port or 0) for host in info.parsed_addresses(IPVersion.V4Only)[:MAX_ADDRESSES])
        if peer != self._peer and (said.get(SWARM) or b"") == self._swarm.hex().encode() and info.port and addresses:
            log.info("%s is on this LAN, at %s", peer, addresses[0])
            self._introduce(peer, addresses)


def _announcement(peer: PeerId, swarm: bytes, address: Address) -> AsyncServiceInfo:
    return AsyncServiceInfo(
        SERVICE,
        f"{peer[:16]}.{SERVICE}",
        addresses=[socket.inet_aton(address.host)],
        port=address.port,
        properties={PEER: peer.encode(), SWARM: swarm.hex().encode()},
        server=f"{peer[:16]}.local.",
    )
