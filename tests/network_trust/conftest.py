"""Peers on loopback that answer each call with who made it, and the certificates that an attacker can make."""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from dsd_core.errors import Refused
from dsd_core.network import signed_key
from dsd_core.network.address import Address
from dsd_core.network.certificates import CHANNEL_OPTIONS, caller
from dsd_core.network.channels import CLIENT_OPTIONS, SERVER_OPTIONS
from dsd_core.network.leaf import SERVER_NAME, Leaf
from dsd_core.network.status import abort
from dsd_core.network.trust_anchor import OPEN_CA_NAME, open_ca_key, unsigned_certificate

WHO = "/dsd.test/Who"
USAGES = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass
class Peer:
    """What listens at an address."""

    address: Address = field(default_factory=lambda: Address("127.0.0.1", 0))
    callers: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def who(self, request: bytes, context: Any) -> bytes:
        try:
            self.callers.append(caller(context))
        except Refused as error:
            self.refused.append(str(error))
            await abort(context, error)
        return self.callers[-1].encode()


@asynccontextmanager
async def listening(credentials: grpc.ServerCredentials | None) -> AsyncIterator[Peer]:
    """Plaintext with None."""
    peer = Peer()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(peer.who)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("dsd.test", {"Who": handler}),))
    where = "127.0.0.1:0"
    port = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    await server.start()
    peer.address = Address("127.0.0.1", port)
    try:
        yield peer
    finally:
        await server.stop(None)


async def ask(address: Address, credentials: grpc.ChannelCredentials, seconds: float = 5.0) -> str:
    """Who the peer says we are. Raises AioRpcError."""
    options = [*CLIENT_OPTIONS, *CHANNEL_OPTIONS]
    async with grpc.aio.secure_channel(str(address), credentials, options=options) as channel:
        answer: bytes = await channel.unary_unary(WHO)(b"", timeout=seconds)
        return answer.decode()


async def failure(address: Address, credentials: grpc.ChannelCredentials) -> tuple[grpc.StatusCode, str]:
    """How a call fails that must. Each failure here is at once: none may be a deadline."""
    try:
        answer = await ask(address, credentials)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError(f"the call was answered: {answer}")


# -- an attacker's own work --------------------------------------------------------------------------------------------


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def posing_as(certificate: bytes) -> bytes:
    """A private key that claims the public key of somebody's certificate: libraries load the pair, and sign wrongly."""
    key = new_key()
    claimed = x509.load_pem_x509_certificate(certificate).public_key()
    assert isinstance(claimed, ec.EllipticCurvePublicKey)
    encoded = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    own, others = (public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) for public in (key.public_key(), claimed))
    assert encoded.count(own) == 1
    body = base64.encodebytes(encoded.replace(own, others))
    return b"-----BEGIN EC PRIVATE KEY-----\n" + body + b"-----END EC PRIVATE KEY-----\n"


def tls_context(protocol: int, leaf: Leaf, directory: Path) -> ssl.SSLContext:
    """Of a library that does as it is told: it shows any leaf, and believes every other."""
    (directory / "leaf.pem").write_bytes(leaf.key + leaf.certificate)
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(directory / "leaf.pem")
    return context


def server_form(issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """Good for everything, and named as the victim's is."""
    return (
        unsigned_certificate("tls", key.public_key(), issuer)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(USAGES), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
    )


def client_leaf_with(extension: bytes | None, key: ec.EllipticCurvePrivateKey, subject: str = "tls") -> Leaf:
    """Under the open CA, as anybody can have it."""
    builder = unsigned_certificate(subject, key.public_key(), OPEN_CA_NAME)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(signed_key.OID, extension), critical=False)
    return Leaf(builder.sign(open_ca_key(), None).public_bytes(Encoding.PEM), pem_of(key))
