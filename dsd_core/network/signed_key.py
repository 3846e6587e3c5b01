"""The extension of a certificate in which an identity vouches for the certificate's key.

It is libp2p's SignedKey (libp2p/specs, tls/tls.md), for Ed25519 always of one shape:

    SEQUENCE { OCTET STRING { protobuf { Type = Ed25519, Data = 32 bytes } }, OCTET STRING { signature, 64 bytes } }

The identity signs "libp2p-tls-handshake:" and the certificate's public key, so a copy of it fits no other key.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from dsd_core.errors import ProtocolError, UsageError
from dsd_core.network.identity import Identity, PeerId, peer_id_of, public_bytes_of

OID = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")

_PREFIX = b"libp2p-tls-handshake:"
_BEFORE_KEY = bytes.fromhex("3068 0424 08011220")
_BEFORE_SIGNATURE = bytes.fromhex("0440")
_KEY = slice(8, 40)
_SIGNATURE = slice(42, 106)


def encode(identity: Identity, certified: CertificatePublicKeyTypes) -> bytes:
    signature = identity.vouch(_PREFIX + _spki(certified))
    return _BEFORE_KEY + public_bytes_of(identity.peer_id) + _BEFORE_SIGNATURE + signature


def check(extension: bytes, certified: CertificatePublicKeyTypes) -> PeerId:
    """Who vouches for the key. Raises ProtocolError unless somebody does, in exactly this shape."""
    key, signature = extension[_KEY], extension[_SIGNATURE]
    if extension != _BEFORE_KEY + key + _BEFORE_SIGNATURE + signature:
        raise ProtocolError("a certificate's identity has a shape of its own")
    try:
        peer = peer_id_of(key)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _PREFIX + _spki(certified))
    except (UsageError, InvalidSignature):
        raise ProtocolError("a certificate's identity did not sign its key") from None
    return peer


def _spki(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
