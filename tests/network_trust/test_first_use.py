"""An address without an id: who answers there, and what becomes of that answer later."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from dsd_core.errors import DsdError, NoPeers, ProtocolError, Refused, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.certificates import channel_credentials, peer_id_at, server_credentials
from dsd_core.network.identity import Identity, peer_id_of
from dsd_core.network.known_peers import KnownPeers
from dsd_core.network.leaf import Leaf, server_leaf
from dsd_core.network.trust_anchor import OPEN_CA_NAME, open_ca, open_ca_key
from tests.network_trust.conftest import ask, listening, new_key, pem_of, posing_as, server_form, tls_context
from tests.ports import free_port

NODE = Identity.ephemeral()
CLIENT = Identity.ephemeral()
KEY = new_key()


async def test_who_answers_at_an_address() -> None:
    async with listening(server_credentials(NODE)) as node:
        assert await peer_id_at(node.address, 5) == NODE.peer_id
        assert await peer_id_at(Address("localhost", node.address.port)) == NODE.peer_id
        assert node.callers == node.refused == []


async def test_the_id_found_is_the_id_to_pin(tmp_path: Path) -> None:
    known = KnownPeers(tmp_path)
    async with listening(server_credentials(NODE)) as node:
        peer = await peer_id_at(node.address)
        assert known.pin(node.address, peer)
        assert await ask(node.address, channel_credentials(CLIENT, peer)) == CLIENT.peer_id
        assert not known.pin(node.address, await peer_id_at(node.address))


async def test_another_peer_at_a_known_address(tmp_path: Path) -> None:
    async with listening(server_credentials(NODE)) as node:
        KnownPeers(tmp_path).pin(node.address, CLIENT.peer_id)
        with pytest.raises(Refused, match="somebody may be posing as it"):
            KnownPeers(tmp_path).pin(node.address, await peer_id_at(node.address))


# -- what is not a peer ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def saying(what: bytes | None) -> AsyncIterator[Address]:
    """Says so and hangs up; with None, keeps the line and says nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if what is None:
            await reader.read(-1)
        else:
            await reader.read(1)
            writer.write(what)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


async def failure_at(address: Address, seconds: float = 5.0) -> DsdError:
    with pytest.raises(DsdError) as caught:
        await peer_id_at(address, seconds)
    assert "\n" not in str(caught.value)
    assert str(address) in str(caught.value)
    return caught.value


async def test_nobody_listens() -> None:
    error = await failure_at(Address("127.0.0.1", free_port()))
    assert type(error) is NoPeers
    assert "nothing answers" in str(error)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70, "."])
async def test_a_host_that_does_not_exist(host: str) -> None:
    assert isinstance(await failure_at(Address(host, 4100)), NoPeers | TimedOut)


async def test_silence() -> None:
    async with saying(None) as address:
        started = time.monotonic()
        error = await failure_at(address, 0.2)
        assert time.monotonic() - started < 2
    assert type(error) is TimedOut


@pytest.mark.parametrize(
    "what", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", bytes(100), b"\x15\x03\x01\x00\x02\x02\x46"]
)
async def test_what_does_not_speak_tls(what: bytes) -> None:
    async with saying(what) as address:
        error = await failure_at(address)
    assert type(error) is ProtocolError
    assert "does not speak TLS 1.3" in str(error)


async def test_a_plaintext_node() -> None:
    async with listening(None) as plain:
        assert type(await failure_at(plain.address)) is ProtocolError


async def test_a_server_of_old_tls(tmp_path: Path) -> None:
    context = tls_context(ssl.PROTOCOL_TLS_SERVER, server_leaf(NODE), tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    async with server:
        error = await failure_at(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    assert "does not speak TLS 1.3" in str(error)


def self_signed() -> bytes:
    return server_form(NODE.peer_id, KEY).sign(KEY, SHA256()).public_bytes(Encoding.PEM)


def forged_issuer() -> bytes:
    return CLIENT.issue(server_form(NODE.peer_id, KEY)).public_bytes(Encoding.PEM)


def forged_issuer_with_a_good_leaf_behind() -> bytes:
    return forged_issuer() + server_leaf(NODE).certificate


def of_the_open_ca() -> bytes:
    return server_form(OPEN_CA_NAME, KEY).sign(open_ca_key(), None).public_bytes(Encoding.PEM)


def of_an_identity_that_everybody_has() -> bytes:
    everybodys = peer_id_of(open_ca_key().public_key().public_bytes_raw())
    return server_form(everybodys, KEY).sign(open_ca_key(), None).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    "chain",
    [
        self_signed,
        forged_issuer,
        forged_issuer_with_a_good_leaf_behind,
        of_the_open_ca,
        of_an_identity_that_everybody_has,
    ],
    ids=lambda chain: chain.__name__,
)
async def test_what_speaks_tls_and_is_not_one_of_us(chain: Callable[[], bytes]) -> None:
    roots = open_ca().public_bytes(Encoding.PEM)
    async with listening(grpc.ssl_server_credentials([(pem_of(KEY), chain())], roots, True)) as other:
        error = await failure_at(other.address)
    assert type(error) is ProtocolError
    assert "is not one of us" in str(error)


async def test_another_peers_leaf_without_its_key(tmp_path: Path) -> None:
    """Nothing is verified in that handshake but this: whoever answers holds the key of the leaf that is shown."""
    stolen = server_leaf(NODE).certificate
    context = tls_context(ssl.PROTOCOL_TLS_SERVER, Leaf(stolen, posing_as(stolen)), tmp_path)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    async with server:
        assert type(await failure_at(Address("127.0.0.1", server.sockets[0].getsockname()[1]))) is ProtocolError
