"""The certificates that peers show each other, and who is behind one.

The TLS key is P-256, as gRPC refuses Ed25519 there, and fresh at each start. A server's is issued by its identity, so
that an id alone pins it; a client's names its identity in an extension, as its issuer is the open CA.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dsd_core.errors import ProtocolError, UsageError
from dsd_core.network import signed_key
from dsd_core.network.identity import Identity, PeerId, parse_peer_id, public_key_of
from dsd_core.network.trust_anchor import (
    OPEN_CA_NAME,
    open_ca_key,
    require_secret,
    unsigned_certificate,
)

SERVER_NAME = "peer.dsd"
"""Of every server: a name of its own would show on the wire whom one dials."""

MAX_CERTIFICATE_BYTES = 4096
"""Ours take 800. What is remembered of callers is bounded with it."""

_MALFORMED = (
    ValueError,
    TypeError,
    KeyError,  # Of older releases of cryptography, for an unknown type of string in a name.
    UnsupportedAlgorithm,
    InternalError,  # As for a key too short for its kind.
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,  # Where warnings are errors: odd serial numbers and names get no more than that.
)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def server_leaf(identity: Identity) -> Leaf:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _usable_for(ExtendedKeyUsageOID.SERVER_AUTH, unsigned_certificate("tls", key.public_key(), identity.peer_id))
    alternative = x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)])
    return _leaf(identity.issue(builder.add_extension(alternative, critical=False)), key)


@lru_cache(maxsize=16)
def client_leaf(identity: Identity) -> Leaf:
    """One for all connections of an identity: servers remember whom they have checked."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _usable_for(ExtendedKeyUsageOID.CLIENT_AUTH, unsigned_certificate("tls", key.public_key(), OPEN_CA_NAME))
    vouched = x509.UnrecognizedExtension(signed_key.OID, signed_key.encode(identity, key.public_key()))
    # Marked critical, it would be refused by gRPC, which does not know it.
    return _leaf(builder.add_extension(vouched, critical=False).sign(open_ca_key(), None), key)


def peer_behind_server(der: bytes) -> PeerId:
    """Who issued a server's leaf. Raises ProtocolError unless one of us did."""
    try:
        leaf = x509.load_der_x509_certificate(_bounded(der))
        (name,) = leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        peer = parse_peer_id(str(name.value))
        public_key_of(peer).verify(leaf.signature, leaf.tbs_certificate_bytes)
    except (*_MALFORMED, UsageError, InvalidSignature):
        raise ProtocolError("a certificate is not issued by a peer id") from None
    require_secret(peer)
    return peer


@lru_cache(maxsize=1024)
def peer_behind_client(pem: bytes) -> PeerId:
    """Who vouches for the key of a client's leaf. Raises ProtocolError unless somebody does.

    It proves a caller only on a connection where TLS has shown that the caller holds that key. Subject, issuer and names
    are anybody's to choose.
    """
    try:
        leaf = x509.load_pem_x509_certificate(_bounded(pem))
        extension = leaf.extensions.get_extension_for_oid(signed_key.OID).value
        if not isinstance(extension, x509.UnrecognizedExtension):
            raise ProtocolError("a certificate's identity is of another kind")
        peer = signed_key.check(extension.value, leaf.public_key())
    except (*_MALFORMED, x509.ExtensionNotFound):
        raise ProtocolError("a certificate names no identity") from None
    require_secret(peer)
    return peer


def _usable_for(usage: x509.ObjectIdentifier, builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)


def _leaf(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Leaf:
    encoding = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    return Leaf(certificate.public_bytes(encoding), private)


def _bounded(encoded: bytes) -> bytes:
    if len(encoded) > MAX_CERTIFICATE_BYTES:
        raise ProtocolError(f"a certificate has {len(encoded)} bytes, more than {MAX_CERTIFICATE_BYTES}")
    return encoded
