"""The next stage of a session's lane, as this stage sees it."""

import asyncio
from collections import Counter
from collections.abc import Callable
from functools import partial

import grpc.aio

from dsd_core.errors import DsdError, OutOfCapacity, PeerLost, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Transport
from dsd_core.wire.v1 import stage_pb2

WRITE_SECONDS = 30.0
"""How long the next stage may leave a frame unread."""
MAX_CHANNELS = 256


class Downstream:
    """A stream of frames to the next stage. `send` in order; `watch` returns only by raising what ended the stream."""

    def __init__(
        self, address: Address, channel: grpc.aio.Channel, session_id: bytes, leave: Callable[[], None]
    ) -> None:
        """`leave` is called once it is closed, and needs the channel no more."""
        self._address = address
        self._session_id = session_id
        self._leave = leave
        self._call = stage_stub(channel).StreamFrames()
        self._opened = False
        self._sending_since: float | None = None

    async def send(self, frame: stage_pb2.Frame) -> None:
        """Raises the error that ended the stream. Its deadline is kept by whoever looks at `stuck` now and then: a timer for
        each frame would cost a tenth of all that is done for it here."""
        request = stage_pb2.StreamFramesRequest(frame=frame)
        if not self._opened:
            request.session_id = self._session_id
            self._opened = True
        self._sending_since = asyncio.get_running_loop().time()
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.watch()
        self._sending_since = None

    def stuck(self, now: float) -> TimedOut | None:
        """What to end the session with when the next stage has stopped reading."""
        if self._sending_since is None or now - self._sending_since < WRITE_SECONDS:
            return None
        return TimedOut(f"the stage at {self._address} has stopped reading; it may be frozen")

    async def watch(self) -> None:
        try:
            await self._call
        except grpc.aio.AioRpcError as failure:
            raise self._named(error_of(failure, f"the stage at {self._address}")) from None
        raise PeerLost(f"the stage at {self._address} ended the session")

    def close(self) -> None:
        """The next stage closes its session when it notices. Once."""
        self._call.cancel()
        self._leave()

    def _named(self, error: DsdError) -> DsdError:
        """With all else that it says, such as when to come back."""
        if "stage at" not in str(error):
            error.args = (f"the stage at {self._address}: {error}",)
        return error


class Channels:
    """One channel to each next stage, shared by the sessions that go there. A wrong peer id spoils no other session's."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._channels: dict[tuple[Address, PeerId], grpc.aio.Channel] = {}
        self._sessions = Counter[tuple[Address, PeerId]]()

    async def downstream(self, address: Address, peer: PeerId, session_id: bytes) -> Downstream:
        """Close it. Raises OutOfCapacity: clients choose where their sessions go, and could choose without end."""
        there = address, peer
        while there not in self._channels and len(self._channels) >= MAX_CHANNELS:
            await self._take_unused().close()
        if there not in self._channels:
            self._channels[there] = self._transport.channel(address, peer)
        self._sessions[there] += 1
        return Downstream(address, self._channels[there], session_id, partial(self._sessions.subtract, [there]))

    def _take_unused(self) -> grpc.aio.Channel:
        """The one that was made first, of those that no session uses."""
        for there in self._channels:
            if not self._sessions[there]:
                del self._sessions[there]
                return self._channels.pop(there)
        raise OutOfCapacity(f"the node's sessions go on to {MAX_CHANNELS} stages already; choose another node")

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
