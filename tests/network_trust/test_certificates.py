"""Real connections on loopback: peers reach each other, and nobody else gets through."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from dsd_core.errors import Refused
from dsd_core.network import signed_key
from dsd_core.network.address import Address
from dsd_core.network.certificates import CHANNEL_OPTIONS, caller, channel_credentials, server_credentials
from dsd_core.network.channels import CLIENT_OPTIONS
from dsd_core.network.identity import Identity, PeerId, peer_id_of
from dsd_core.network.leaf import Leaf, client_leaf, peer_behind_client, server_leaf
from dsd_core.network.trust_anchor import OPEN_CA_NAME, anchor_of, open_ca, open_ca_key, unsigned_certificate
from tests.network_trust.conftest import (
    WHO,
    Peer,
    ask,
    client_leaf_with,
    failure,
    listening,
    new_key,
    pem_of,
    posing_as,
    server_form,
    tls_context,
)

NODE = Identity.ephemeral()
CLIENT = Identity.ephemeral()
MALLORY = Identity.ephemeral()


# -- those who may -----------------------------------------------------------------------------------------------------


async def test_two_peers_meet_and_the_server_knows_its_caller() -> None:
    async with listening(server_credentials(NODE)) as node:
        assert await ask(node.address, channel_credentials(CLIENT, NODE.peer_id)) == CLIENT.peer_id
        assert await ask(node.address, channel_credentials(MALLORY, NODE.peer_id)) == MALLORY.peer_id
        assert await ask(node.address, channel_credentials(NODE, NODE.peer_id)) == NODE.peer_id


async def test_a_restarted_peer_has_a_new_leaf_and_the_same_id() -> None:
    credentials = channel_credentials(CLIENT, NODE.peer_id)
    for _ in range(2):
        async with listening(server_credentials(NODE)) as node:
            assert await ask(node.address, credentials) == CLIENT.peer_id


async def test_a_caller_is_checked_once() -> None:
    newcomer = Identity.ephemeral()
    async with listening(server_credentials(NODE)) as node:
        before = peer_behind_client.cache_info()
        for _ in range(3):
            assert await ask(node.address, channel_credentials(newcomer, NODE.peer_id)) == newcomer.peer_id
        after = peer_behind_client.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)


# -- whoever answers in another's place --------------------------------------------------------------------------------


async def refused_by_tls(leaf: Leaf, pinned: PeerId) -> None:
    """A server with this leaf is not `pinned`: no call reaches it, and none waits for its deadline to see that."""
    roots = open_ca().public_bytes(Encoding.PEM)
    async with listening(grpc.ssl_server_credentials([(leaf.key, leaf.certificate)], roots, True)) as impostor:
        code, why = await failure(impostor.address, channel_credentials(CLIENT, pinned))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "Tls handshake failed" in why or "Hostname Verification" in why
        assert impostor.callers == impostor.refused == []


async def test_another_peer_than_the_pinned_one() -> None:
    await refused_by_tls(server_leaf(MALLORY), NODE.peer_id)


def forged_issuer() -> bytes:
    return MALLORY.issue(server_form(NODE.peer_id, KEY)).public_bytes(Encoding.PEM)


def forged_issuer_and_root() -> bytes:
    root = unsigned_certificate(NODE.peer_id, KEY.public_key(), NODE.peer_id)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    leaf = server_form(NODE.peer_id, KEY).sign(KEY, SHA256())
    return leaf.public_bytes(Encoding.PEM) + root.sign(KEY, SHA256()).public_bytes(Encoding.PEM)


def anchor_in_chain() -> bytes:
    """The very anchor that the client makes, with the victim's key in it; but the leaf is not signed with that."""
    return forged_issuer() + anchor_of(NODE.peer_id).public_bytes(Encoding.PEM)


def under_the_open_ca() -> bytes:
    return server_form(OPEN_CA_NAME, KEY).sign(open_ca_key(), None).public_bytes(Encoding.PEM)


def under_the_open_ca_with_its_root() -> bytes:
    return under_the_open_ca() + open_ca().public_bytes(Encoding.PEM)


def under_the_open_ca_in_the_victims_name() -> bytes:
    return server_form(NODE.peer_id, KEY).sign(open_ca_key(), None).public_bytes(Encoding.PEM)


def self_signed() -> bytes:
    return server_form(NODE.peer_id, KEY).sign(KEY, SHA256()).public_bytes(Encoding.PEM)


def vouched_for_but_not_issued() -> bytes:
    """What proves a client proves no server."""
    return client_leaf_with(signed_key.encode(NODE, KEY.public_key()), KEY).certificate


KEY = new_key()
IMPOSTORS = [
    forged_issuer,
    forged_issuer_and_root,
    anchor_in_chain,
    under_the_open_ca,
    under_the_open_ca_with_its_root,
    under_the_open_ca_in_the_victims_name,
    self_signed,
    vouched_for_but_not_issued,
]


@pytest.mark.parametrize("chain", IMPOSTORS, ids=lambda chain: chain.__name__)
async def test_an_impostor(chain: Callable[[], bytes]) -> None:
    await refused_by_tls(Leaf(chain(), pem_of(KEY)), NODE.peer_id)


async def test_a_peer_that_issues_for_others() -> None:
    """A peer's own leaf does not make it an authority under its own id either."""
    below = new_key()
    leaf = server_form("tls", below).sign(KEY, SHA256()).public_bytes(Encoding.PEM)
    chain = leaf + NODE.issue(server_form(NODE.peer_id, KEY)).public_bytes(Encoding.PEM)
    await refused_by_tls(Leaf(chain, pem_of(below)), NODE.peer_id)


async def test_a_leaf_of_the_right_peer_for_something_else() -> None:
    nameless = unsigned_certificate("tls", KEY.public_key(), NODE.peer_id)
    nameless = nameless.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    await refused_by_tls(Leaf(NODE.issue(nameless).public_bytes(Encoding.PEM), pem_of(KEY)), NODE.peer_id)


async def test_a_wrong_pin_does_not_ride_on_a_connection_with_the_right_one() -> None:
    options = [option for option in CLIENT_OPTIONS if option[0] != "grpc.use_local_subchannel_pool"]
    async with listening(server_credentials(NODE)) as node:
        right = channel_credentials(CLIENT, NODE.peer_id)
        async with grpc.aio.secure_channel(str(node.address), right, [*options, *CHANNEL_OPTIONS]) as channel:
            assert await channel.unary_unary(WHO)(b"", timeout=5) == CLIENT.peer_id.encode()
            wrong = channel_credentials(CLIENT, MALLORY.peer_id)
            async with grpc.aio.secure_channel(str(node.address), wrong, [*options, *CHANNEL_OPTIONS]) as other:
                with pytest.raises(grpc.aio.AioRpcError, match="CERTIFICATE_VERIFY_FAILED"):
                    await other.unary_unary(WHO)(b"", timeout=5)


async def test_an_id_that_is_no_point_of_the_curve_is_nobody_to_reach() -> None:
    off_the_curve = peer_id_of(bytes([2]) + bytes(31))
    async with listening(server_credentials(NODE)) as node:
        code, _ = await failure(node.address, channel_credentials(CLIENT, off_the_curve))
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_a_plaintext_server() -> None:
    async with listening(None) as plain:
        code, _ = await failure(plain.address, channel_credentials(CLIENT, NODE.peer_id))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert plain.callers == plain.refused == []


# -- the open CA -------------------------------------------------------------------------------------------------------


def test_the_open_ca_is_never_a_clients_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with that root would take anybody for anybody: the next test shows it."""
    roots = []
    monkeypatch.setattr(grpc, "ssl_channel_credentials", lambda root, key, chain: roots.append(root))
    for peer in (NODE, CLIENT, Identity.ephemeral()):
        channel_credentials(CLIENT, peer.peer_id)
    public_open_ca = open_ca_key().public_key().public_bytes_raw()
    for root in roots:
        assert root.count(b"BEGIN CERTIFICATE") == 1
        anchor = x509.load_pem_x509_certificate(root)
        assert anchor.public_key().public_bytes_raw() != public_open_ca  # type: ignore[union-attr]
        assert anchor.subject != open_ca().subject
    with pytest.raises(Refused, match="known to everybody"):
        channel_credentials(CLIENT, peer_id_of(public_open_ca))


async def test_what_the_open_ca_as_a_clients_root_would_do() -> None:
    leaf = client_leaf(CLIENT)
    careless = grpc.ssl_channel_credentials(open_ca().public_bytes(Encoding.PEM), leaf.key, leaf.certificate)
    impostor_leaf = [(pem_of(KEY), under_the_open_ca())]
    async with listening(grpc.ssl_server_credentials(impostor_leaf, open_ca().public_bytes(Encoding.PEM), True)) as impostor:
        assert await ask(impostor.address, careless) == CLIENT.peer_id
        code, _ = await failure(impostor.address, channel_credentials(CLIENT, NODE.peer_id))
        assert code is grpc.StatusCode.UNAVAILABLE


def test_the_open_ca_is_the_same_everywhere() -> None:
    """Or releases would not understand each other. Its private key is no secret, and in no file either."""
    public_key = open_ca_key().public_key().public_bytes_raw()
    assert public_key.hex() == "5ca3450b7ddde00dd0bae1d69b651665123b83b5e64c5afb68d8a4df71ffdbcd"


# -- whoever calls as another ------------------------------------------------------------------------------------------


def stranger(leaf: Leaf | None) -> grpc.ChannelCredentials:
    """Knows the server, and shows this leaf or none."""
    root = anchor_of(NODE.peer_id).public_bytes(Encoding.PEM)
    return grpc.ssl_channel_credentials(root, leaf.key, leaf.certificate) if leaf else grpc.ssl_channel_credentials(root)


def under_another_ca_of_that_name() -> Leaf:
    builder = unsigned_certificate("tls", KEY.public_key(), OPEN_CA_NAME)
    vouched = x509.UnrecognizedExtension(signed_key.OID, signed_key.encode(MALLORY, KEY.public_key()))
    return Leaf(MALLORY.issue(builder.add_extension(vouched, False)).public_bytes(Encoding.PEM), pem_of(KEY))


STOPPED_BY_TLS: dict[str, Callable[[], Leaf | None]] = {
    "anonymous": lambda: None,
    "under another CA of that name": under_another_ca_of_that_name,
    "a server's leaf": lambda: server_leaf(MALLORY),
}
STOPPED_BY_US: dict[str, Callable[[], Leaf]] = {
    "no identity": lambda: client_leaf_with(None, KEY),
    "an empty identity": lambda: client_leaf_with(b"\x30\x00", KEY),
    "another's identity": lambda: client_leaf_with(signed_key.encode(CLIENT, new_key().public_key()), KEY),
    "another's identity, copied": lambda: client_leaf_with(copied_identity(), KEY),
    "the open CA's identity": lambda: client_leaf(Identity(open_ca_key())),
    "a certificate of 6 kB": lambda: client_leaf_with(bytes(6000), KEY),
}


def copied_identity() -> bytes:
    certificate = x509.load_pem_x509_certificate(client_leaf(CLIENT).certificate)
    extension = certificate.extensions.get_extension_for_oid(signed_key.OID).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    return extension.value


@pytest.mark.parametrize("who", STOPPED_BY_TLS)
async def test_a_caller_that_tls_stops(who: str) -> None:
    async with listening(server_credentials(NODE)) as node:
        code, why = await failure(node.address, stranger(STOPPED_BY_TLS[who]()))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "Socket closed" in why
        assert node.callers == node.refused == []


@pytest.mark.parametrize("who", STOPPED_BY_US)
async def test_a_caller_that_proves_nothing(who: str) -> None:
    async with listening(server_credentials(NODE)) as node:
        code, _ = await failure(node.address, stranger(STOPPED_BY_US[who]()))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert node.callers == []
        assert len(node.refused) == 1
        assert "\n" not in node.refused[0]


async def test_only_the_identity_counts_in_a_callers_certificate() -> None:
    """Anybody can have any name certified by the open CA."""
    named_client = client_leaf_with(signed_key.encode(MALLORY, KEY.public_key()), KEY, subject=CLIENT.peer_id)
    async with listening(server_credentials(NODE)) as node:
        assert await ask(node.address, stranger(named_client)) == MALLORY.peer_id


async def test_a_plaintext_caller_reaches_no_secure_port() -> None:
    async with listening(server_credentials(NODE)) as node, grpc.aio.insecure_channel(str(node.address)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(WHO)(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert node.callers == node.refused == []


async def test_a_plaintext_port_proves_no_caller() -> None:
    async with listening(None) as plain, grpc.aio.insecure_channel(str(plain.address)) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"a call over TLS 1\.3 is needed"):
            await channel.unary_unary(WHO)(b"", timeout=5)
        assert plain.callers == []


TLS13 = {"ssl_tls_version": [b"TLSv1.3"]}


@pytest.mark.parametrize(
    "proof",
    [
        {},
        TLS13,
        TLS13 | {"x509_pem_cert": []},
        TLS13 | {"x509_pem_cert": [client_leaf(CLIENT).certificate, client_leaf(MALLORY).certificate]},
        TLS13 | {"x509_pem_cert": [b"junk"]},
        {"x509_pem_cert": [client_leaf(CLIENT).certificate]},
        {"x509_pem_cert": [client_leaf(CLIENT).certificate], "ssl_tls_version": [b"TLSv1.2"]},
        {"x509_pem_cert": [client_leaf(CLIENT).certificate], "ssl_tls_version": [b"TLSv1.3", b"TLSv1.2"]},
    ],
)
def test_half_a_proof_is_none(proof: dict[str, list[bytes]]) -> None:
    context: Any = SimpleNamespace(auth_context=lambda: proof)
    with pytest.raises(Refused):
        caller(context)


# -- over a TLS library that does what gRPC's would not --------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


WHO_CALL = b"".join(
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        frame(4, 0, 0, b""),  # SETTINGS
        frame(1, 4, 1, b"\x83\x87" + b"".join(  # HEADERS: POST, https
            literal(name, value)
            for name, value in [
                (b":path", WHO.encode()),
                (b":authority", b"peer.dsd"),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            ]
        )),
        frame(0, 1, 1, bytes(5)),  # DATA: an empty message, the last one
    ]
)  # fmt: skip


async def call_over(context: ssl.SSLContext, node: Peer) -> None:
    """The call `Who` written out. Returns when the node has an answer, or closes the connection."""
    reader, writer = await asyncio.open_connection(node.address.host, node.address.port, ssl=context)
    writer.write(WHO_CALL)
    try:
        async with asyncio.timeout(10):
            while not node.callers and not node.refused and not reader.at_eof():
                await reader.read(4096)
    finally:
        writer.transport.abort()


async def test_the_call_written_out_is_a_good_one(tmp_path: Path) -> None:
    async with listening(server_credentials(NODE)) as node:
        await call_over(tls_context(ssl.PROTOCOL_TLS_CLIENT, client_leaf(CLIENT), tmp_path), node)
        assert node.callers == [CLIENT.peer_id]


async def test_old_tls_is_refused_even_with_a_proper_certificate(tmp_path: Path) -> None:
    context = tls_context(ssl.PROTOCOL_TLS_CLIENT, client_leaf(CLIENT), tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(server_credentials(NODE)) as node:
        await call_over(context, node)
        assert node.callers == []
        assert "TLS 1.3 is needed" in node.refused[0]


async def test_a_stolen_certificate_is_no_use_to_a_client_without_its_key(tmp_path: Path) -> None:
    stolen = client_leaf(CLIENT).certificate
    context = tls_context(ssl.PROTOCOL_TLS_CLIENT, Leaf(stolen, posing_as(stolen)), tmp_path)
    async with listening(server_credentials(NODE)) as node:
        with suppress(ssl.SSLError, ConnectionError):  # Or the end of the stream: TLS 1.3 tells clients late.
            await call_over(context, node)
        assert node.callers == node.refused == []


async def test_a_stolen_certificate_is_no_use_to_a_server_without_its_key(tmp_path: Path) -> None:
    stolen = server_leaf(NODE).certificate
    context = tls_context(ssl.PROTOCOL_TLS_SERVER, Leaf(stolen, posing_as(stolen)), tmp_path)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    async with server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
        code, why = await failure(address, channel_credentials(CLIENT, NODE.peer_id))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "BAD_SIGNATURE" in why
