"""Mutual TLS between peers that know each other by id alone: no authority, nothing to announce.

    client                                                    server
    root: made from the server's id          <---- leaf ----  issued by the server's identity
    leaf: under the open CA, with an                          root: the open CA, which certifies anybody
          extension signed by the identity   ---- leaf ---->  the extension says who calls
"""

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from dsd_core.errors import NoPeers, ProtocolError, Refused, TimedOut
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity, PeerId
from dsd_core.network.leaf import SERVER_NAME, client_leaf, peer_behind_client, peer_behind_server, server_leaf
from dsd_core.network.trust_anchor import anchor_of, open_ca

if TYPE_CHECKING:
    import grpc.aio

CHANNEL_OPTIONS: list[tuple[str, str]] = [("grpc.ssl_target_name_override", SERVER_NAME)]
"""Needed on each channel with `channel_credentials`: peers are known by key, whatever address they are dialled at."""


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """For a port on which callers have to show a certificate. Any will do for the connection: ask `caller` in each call."""
    leaf = server_leaf(identity)
    roots = open_ca().public_bytes(Encoding.PEM)
    return grpc.ssl_server_credentials([(leaf.key, leaf.certificate)], roots, require_client_auth=True)


def channel_credentials(identity: Identity, peer: PeerId) -> grpc.ChannelCredentials:
    """For a channel on which only `peer` can answer, and which shows it who we are. Raises Refused for an id of nobody's."""
    leaf = client_leaf(identity)
    return grpc.ssl_channel_credentials(anchor_of(peer).public_bytes(Encoding.PEM), leaf.key, leaf.certificate)


def caller(context: "grpc.aio.ServicerContext[Any, Any]") -> PeerId:
    """The peer that made a call, proven by its connection. Raises Refused if there is no proof."""
    proof = {name: list(values) for name, values in context.auth_context().items()}
    # The server's TLS would accept 1.2, where the client's certificate travels in the clear.
    if proof.get("ssl_tls_version") != [b"TLSv1.3"]:
        raise Refused("a call over TLS 1.3 is needed here; run the same release of DSD on both ends")
    try:
        (certificate,) = proof.get("x509_pem_cert", [])
        return peer_behind_client(certificate)
    except (ValueError, ProtocolError):
        raise Refused("the caller does not prove who it is; run the same release of DSD on both ends") from None


async def peer_id_at(address: Address, timeout_seconds: float = 5.0) -> PeerId:
    """Who answers at an address, to be trusted on first use: whoever it is does hold the key of that id.

    Raises NoPeers if nothing listens there, TimedOut, or ProtocolError for what is not one of us.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            return peer_behind_server(await _certificate_at(address))
    except TimeoutError:
        raise TimedOut(f"the peer at {address} did not answer in time; it may be overloaded or frozen") from None
    except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, EOFError):
        raise ProtocolError(f"what listens on {address} does not speak TLS 1.3; check that it is a dsd-node") from None
    except (OSError, UnicodeError):  # The latter for what cannot be a host's name, as in "a..b".
        raise NoPeers(f"nothing answers at {address}; check the address, and that its dsd-node is running") from None
    except (ProtocolError, Refused):
        raise ProtocolError(f"what listens on {address} is not one of us; check that it is a dsd-node") from None


async def _certificate_at(address: Address) -> bytes:
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=_unverified(), server_hostname=SERVER_NAME)
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(certificate, bytes), "a TLS server always shows one"
        return certificate
    finally:
        writer.transport.abort()


def _unverified() -> ssl.SSLContext:
    """TLS checks that the server holds its leaf's key, even so; whose it is, is checked afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    return context
