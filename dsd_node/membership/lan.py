"""Nodes of one swarm that find each other on a LAN, by multicast DNS: nobody has to be named."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import ifaddr
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
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
MAX_NAMES = 256

Introduce = Callable[[PeerId, tuple[Address, ...]], None]
Interfaces = list[str | int | tuple[tuple[str, int, int], int]] | InterfaceChoice


def addresses_of_this_machine(port: int) -> tuple[Address, ...]:
    """Where others on the LAN may reach a port that listens on all interfaces; loopback, where there is no LAN."""
    found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    usable = [ip for ip in found if not ipaddress.ip_address(ip).is_loopback]
    return tuple(Address(ip, port) for ip in usable[:MAX_ADDRESSES]) or (Address("127.0.0.1", port),)


@asynccontextmanager
async def lan(
    peer: PeerId, swarm: bytes, address: Address, introduce: Introduce, interfaces: Interfaces = InterfaceChoice.All
) -> AsyncIterator[None]:
    """As long as it is open, we are to be found on the LAN, and `introduce` is called for the others of our swarm.

    What a stranger claims there is no more than a hint whom to dial: who answers has to prove that it is that peer.
    Raises OSError where there is no multicast.
    """
    zeroconf = AsyncZeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
    finder = _Finder(peer, swarm, introduce)
    looking = asyncio.create_task(finder.look_up(zeroconf.zeroconf))
    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[finder.on_change])
    try:
        await zeroconf.async_register_service(_announcement(peer, swarm, address))
        yield
    finally:
        looking.cancel()
        await browser.async_cancel()
        await zeroconf.async_close()
        await asyncio.wait([looking])


class _Finder:
    """Announcements come as names, which are looked up one after the other."""

    def __init__(self, peer: PeerId, swarm: bytes, introduce: Introduce) -> None:
        self._peer = peer
        self._swarm = swarm
        self._introduce = introduce
        self._names: asyncio.Queue[str] = asyncio.Queue(MAX_NAMES)

    def on_change(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is not ServiceStateChange.Removed and not self._names.full():
            self._names.put_nowait(name)

    async def look_up(self, zeroconf: Zeroconf) -> None:
        while True:
            info = AsyncServiceInfo(SERVICE, await self._names.get())
            if await info.async_request(zeroconf, ASK_MILLIS):
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
