"""The generated client, with the types of its asyncio form."""

from typing import TYPE_CHECKING, cast

import grpc.aio

from dsd_core.wire.v1 import drafter_pb2_grpc, peer_pb2_grpc, stage_pb2_grpc

if TYPE_CHECKING:
    from dsd_core.wire.v1.drafter_pb2_grpc import DraftServiceAsyncStub
    from dsd_core.wire.v1.peer_pb2_grpc import PeerServiceAsyncStub
    from dsd_core.wire.v1.stage_pb2_grpc import StageServiceAsyncStub


def stage_stub(channel: grpc.aio.Channel) -> "StageServiceAsyncStub":
    """Calls to the stage behind a channel. One class serves both forms at run time; only the types differ."""
    return cast("StageServiceAsyncStub", stage_pb2_grpc.StageServiceStub(channel))


def peer_stub(channel: grpc.aio.Channel) -> "PeerServiceAsyncStub":
    """Calls to the peer behind a channel, about other peers."""
    return cast("PeerServiceAsyncStub", peer_pb2_grpc.PeerServiceStub(channel))


def draft_stub(channel: grpc.aio.Channel) -> "DraftServiceAsyncStub":
    """Calls to the drafter behind a channel."""
    return cast("DraftServiceAsyncStub", drafter_pb2_grpc.DraftServiceStub(channel))
