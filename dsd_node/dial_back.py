"""Dialling a caller back, for those who want to know whether others reach them.

Nobody else can be probed this way: what is dialled is the host that the call came from, of a peer that has proven its key, and
the answer says no more than whether that key answers there.
"""

import asyncio
from collections import OrderedDict
from urllib.parse import unquote

from dsd_core.errors import DsdError, OutOfCapacity, ProtocolError
from dsd_core.network.address import Address
from dsd_core.network.certificates import peer_id_at
from dsd_core.network.identity import PeerId

DIAL_SECONDS = 3.0
PAUSE_SECONDS = 1.0
"""Between two calls for one host."""
MAX_AT_ONCE = 8
MAX_HOSTS = 1024
"""So many are remembered, those last dialled."""


class DialBack:
    """A few at once, and each host now and then."""

    def __init__(self) -> None:
        self._under_way = 0
        self._dialled_at: OrderedDict[str, float] = OrderedDict()

    async def reaches(self, caller: PeerId, address: Address) -> str:
        """Why `caller` does not answer at `address`, or "" if it does. Raises OutOfCapacity for now."""
        self._take_turn(address.host, asyncio.get_running_loop().time())
        self._under_way += 1
        try:
            found = await peer_id_at(address, DIAL_SECONDS)
        except DsdError as error:
            return str(error)
        finally:
            self._under_way -= 1
        return "" if found == caller else f"another peer, {found}, answers at {address}"

    def _take_turn(self, host: str, now: float) -> None:
        wait = self._dialled_at.get(host, now - PAUSE_SECONDS) + PAUSE_SECONDS - now
        if wait > 0 or self._under_way >= MAX_AT_ONCE:
            raise OutOfCapacity("this node dials back only now and then; ask again in a moment", retry_after=max(wait, 0.5))
        self._dialled_at[host] = now
        self._dialled_at.move_to_end(host)
        if len(self._dialled_at) > MAX_HOSTS:
            self._dialled_at.popitem(last=False)


def calling_host(peer: str) -> str:
    """The host in what gRPC says of a caller, as in ipv4:127.0.0.1:4100 or ipv6:%5B::1%5D:4100. Raises ProtocolError."""
    family, _, where = unquote(peer).partition(":")
    host = where.rpartition(":")[0].strip("[]").removeprefix("::ffff:")
    if family not in ("ipv4", "ipv6") or not host:
        raise ProtocolError("the call did not come over TCP, so there is no address to dial back")
    return host
