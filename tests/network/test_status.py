"""Errors across a real call, and what becomes of calls that never were answered."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from click.testing import CliRunner

from dsd_core import errors
from dsd_core.errors import DsdError, Fault, NoPeers, OutOfCapacity, PeerLost, ProtocolError, Refused, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.channels import MAX_MESSAGE_BYTES, SERVER_OPTIONS
from dsd_core.network.status import LONGEST_RETRY_SECONDS, abort, error_of, unreachable
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Plaintext
from dsd_core.wire.v1 import stage_pb2, stage_pb2_grpc

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DsdError)]
MESSAGES = ["too bad", "naïve 日本語 🙂", "100 % sure; try %20 again", "x" * 3000]


class Failing(stage_pb2_grpc.StageServiceServicer):
    """Describe fails with `error`, or hangs; OpenSession fails as a bug does; the other calls are not there."""

    error: DsdError | None = None

    async def Describe(self, request: stage_pb2.DescribeRequest, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override,type-arg]
        if self.error is not None:
            await abort(context, self.error)
        await asyncio.Event().wait()

    async def OpenSession(self, request: stage_pb2.OpenSessionRequest, context: object) -> None:  # type: ignore[override]
        raise RuntimeError("a bug\nin two lines")


PLAIN = Plaintext()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server() -> AsyncIterator[tuple[Failing, Address]]:
    service = Failing()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    stage_pb2_grpc.add_StageServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, Address("127.0.0.1", port)
    await server.stop(None)


async def failure_of(address: Address, method: str = "Describe", request: object = None, seconds: float = 5.0) -> DsdError:
    async with PLAIN.channel(address, PLAIN.peer_id) as channel:
        call = getattr(stage_stub(channel), method)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request or stage_pb2.DescribeRequest(), timeout=seconds)
    return error_of(caught.value, f"the peer at {address}")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.fault >= Fault.PEER])
@pytest.mark.parametrize("message", MESSAGES, ids=["plain", "unicode", "percent", "long"])
async def test_class_and_message_survive_a_call(server: tuple[Failing, Address], kind: type[DsdError], message: str) -> None:
    service, address = server
    service.error = kind(message)
    found = await failure_of(address)
    assert (type(found), str(found)) == (kind, message)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.fault < Fault.PEER])
async def test_a_peer_cannot_lay_the_blame_on_us(server: tuple[Failing, Address], kind: type[DsdError]) -> None:
    service, address = server
    service.error = kind("your disk is full; make room")
    found = await failure_of(address)
    assert (type(found), str(found)) == (Refused, "your disk is full; make room")


@pytest.mark.parametrize("seconds", [None, 0.0, 2.5, 60.0])
async def test_a_hint_when_to_try_again_survives_a_call(server: tuple[Failing, Address], seconds: float | None) -> None:
    service, address = server
    service.error = OutOfCapacity("full", retry_after=seconds)
    found = await failure_of(address)
    assert isinstance(found, OutOfCapacity)
    assert found.retry_after == seconds


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
async def test_a_hint_that_would_keep_us_waiting_forever(server: tuple[Failing, Address], seconds: float) -> None:
    service, address = server
    service.error = OutOfCapacity("full", retry_after=seconds)
    found = await failure_of(address)
    assert isinstance(found, OutOfCapacity)
    assert found.retry_after in (None, LONGEST_RETRY_SECONDS)


async def test_a_peer_that_does_not_answer(server: tuple[Failing, Address]) -> None:
    service, address = server
    service.error = None
    found = await failure_of(address, seconds=0.2)
    assert type(found) is TimedOut
    assert str(address) in str(found)


async def test_a_peer_that_fails_in_an_unknown_way(server: tuple[Failing, Address]) -> None:
    found = await failure_of(server[1], "OpenSession", stage_pb2.OpenSessionRequest())
    assert type(found) is Refused
    assert "\n" not in str(found)


async def test_a_peer_that_speaks_something_else(server: tuple[Failing, Address]) -> None:
    found = await failure_of(server[1], "CloseSession", stage_pb2.CloseSessionRequest())
    assert type(found) is ProtocolError
    assert "same release" in str(found)


async def test_a_message_that_is_too_large(server: tuple[Failing, Address]) -> None:
    request = stage_pb2.OpenSessionRequest(session_id=bytes(MAX_MESSAGE_BYTES + 1))
    assert type(await failure_of(server[1], "OpenSession", request)) is OutOfCapacity


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        address = Address(*bound.getsockname())
    found = await failure_of(address)
    assert type(found) is PeerLost
    assert str(address) in str(found)
    assert type(unreachable(found)) is NoPeers
    assert str(unreachable(found)) == str(found)


def test_only_a_lost_peer_becomes_no_peer() -> None:
    for kind in KINDS:
        error = kind("why")
        assert (unreachable(error) is error) == (kind is not PeerLost)


# -- exit codes --------------------------------------------------------------------------------------------------------


def test_exit_codes_are_distinct() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert not {0, 130} & set(codes)


def test_exit_codes_are_those_of_the_help() -> None:
    from dsd_client.__main__ import cli

    text = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    listed = dict(re.findall(r"(\d+) ([\w .-]+?)(?:,|\.|$)", text[text.index("Exit codes:") :]))
    assert listed == {
        "0": "done",
        str(DsdError.exit_code): "failure",
        str(errors.UsageError.exit_code): "usage",
        str(errors.NoPeers.exit_code): "no peers",
        str(errors.Refused.exit_code): "refused",
        str(errors.ModelNotFound.exit_code): "model not found",
        str(errors.TimedOut.exit_code): "timeout",
        str(errors.UnsupportedModel.exit_code): "unsupported model",
        str(errors.InvalidSpan.exit_code): "no such layers",
        str(errors.NotCovered.exit_code): "layers not covered",
        str(errors.PromptTooLong.exit_code): "prompt too long",
        str(errors.VocabularyMismatch.exit_code): "other vocabulary",
        str(errors.AddressInUse.exit_code): "address in use",
        str(errors.PeerLost.exit_code): "peer lost",
        str(errors.ProtocolError.exit_code): "protocol error",
        str(errors.OutOfCapacity.exit_code): "out of capacity",
        str(errors.InvalidWeights.exit_code): "damaged weights",
        str(errors.UnsoundLibrary.exit_code): "unsound library",
        str(errors.StorageFull.exit_code): "disk full",
        "130": "Ctrl-C",
    }
    assert len(listed) == len(KINDS) + 2
