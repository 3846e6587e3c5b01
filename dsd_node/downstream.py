"""The next stage of a session's lane, as this stage sees it."""

import asyncio

import grpc.aio

from dsd_core.errors import DsdError, PeerLost, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.channels import open_channel
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.wire.v1 import stage_pb2

WRITE_SECONDS = 30.0


class Downstream:
    """A stream of frames to the next stage. `send` in order; `watch` returns only by raising what ended the stream."""

    def __init__(self, address: Address, channel: grpc.aio.Channel, session_id: bytes) -> None:
        self._address = address
        self._session_id = session_id
        self._call = stage_stub(channel).StreamFrames()
        self._opened = False

    async def send(self, frame: stage_pb2.Frame) -> None:
        """Raises the error that ended the stream, or TimedOut when the next stage has stopped reading."""
        request = stage_pb2.StreamFramesRequest(frame=frame)
        if not self._opened:
            request.session_id = self._session_id
            self._opened = True
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._call.write(request)
        except TimeoutError:
            raise TimedOut(f"the stage at {self._address} has stopped reading; it may be frozen") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.watch()

    async def watch(self) -> None:
        try:
            await self._call
        except grpc.aio.AioRpcError as failure:
            raise self._named(error_of(failure, f"the stage at {self._address}")) from None
        raise PeerLost(f"the stage at {self._address} ended the session")

    def close(self) -> None:
        """The next stage closes its session when it notices."""
        self._call.cancel()

    def _named(self, error: DsdError) -> DsdError:
        where = f"the stage at {self._address}"
        return error if "stage at" in str(error) else type(error)(f"{where}: {error}")


class Channels:
    """One channel to each next stage, shared by the sessions that go there."""

    def __init__(self) -> None:
        self._channels: dict[Address, grpc.aio.Channel] = {}

    def to(self, address: Address) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address)
        return self._channels[address]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
