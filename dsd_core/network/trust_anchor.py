"""What the two ends of a connection check certificates against. Neither is a secret, and nobody has to be asked for it."""

import datetime
import hashlib
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from dsd_core.errors import Refused
from dsd_core.network.identity import PeerId, peer_id_of, public_key_of

OPEN_CA_NAME = "dsd open client CA"

# The clocks of volunteers' machines are wrong, and expiry would protect nobody: a TLS key is made at each start.
_FAR_PAST = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_FAR_FUTURE = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def unsigned_certificate(subject: str, key: CertificatePublicKeyTypes, issuer: str) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=named(issuer),
        subject_name=named(subject),
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=_FAR_PAST,
        not_valid_after=_FAR_FUTURE,
    )


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def anchor_of(peer: PeerId) -> x509.Certificate:
    """The root for connections to `peer`, from its id alone. Raises Refused for an id that proves nothing.

    An anchor counts for its name and key (RFC 5280, 6.1.1 d); nobody checks its signature, which is a throwaway key's.
    """
    require_secret(peer)
    return _root(peer, public_key_of(peer), Ed25519PrivateKey.generate())


def require_secret(peer: PeerId) -> None:
    """Raises Refused for the one id under which everybody could sign."""
    if peer == _open_ca_id():
        raise Refused("the peer's key is known to everybody, so it proves nothing; it needs an identity of its own")


@cache
def open_ca_key() -> Ed25519PrivateKey:
    """Of an authority that certifies anybody, since its private key is this line.

    gRPC's server asks for no client certificate without a root to check it against. Whoever is behind the certificate
    is proven by its extension. As a *client's* root it would let anybody answer as anybody.
    """
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"dsd open client CA v1: not a secret").digest())


@cache
def open_ca() -> x509.Certificate:
    """A server's root, and never a client's."""
    return _root(OPEN_CA_NAME, open_ca_key().public_key(), open_ca_key())


@cache
def _open_ca_id() -> PeerId:
    return peer_id_of(open_ca_key().public_key().public_bytes_raw())


def _root(name: str, key: CertificatePublicKeyTypes, signer: Ed25519PrivateKey) -> x509.Certificate:
    builder = unsigned_certificate(name, key, issuer=name)
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(signer, None)
