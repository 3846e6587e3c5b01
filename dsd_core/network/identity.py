"""Who a peer is: an Ed25519 key. Its public half, in base32, is the peer's id, so whoever signs proves the id."""

import base64
import re
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dsd_core.errors import UsageError
from dsd_core.membership.ids import PeerId as PeerId
from dsd_core.network import private_file

KEY_FILE = "identity.key"
_SPELLING = re.compile(r"[a-z2-7]{52}")
_DOMAIN = re.compile(rb"dsd-[a-z0-9-]+-v[0-9]+")

_FIELD = 2**255 - 19
# Points of small order: under such a key a signature that anybody can write down fits every message, or every eighth.
_NOBODYS_KEYS = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)


def parse_peer_id(text: str) -> PeerId:
    """Raises UsageError unless `text` is the only spelling of somebody's key: a second one would walk around a ban."""
    if _SPELLING.fullmatch(text):
        public_key = base64.b32decode(text.upper() + "====")
        if _is_somebodys(public_key) and _spelt(public_key) == text:
            return PeerId(text)
    raise UsageError(f"{text[:60]!r} is not a peer id, which has 52 characters of a-z and 2-7; copy the whole of it")


def peer_id_of(public_key: bytes) -> PeerId:
    """The id of a raw Ed25519 key of 32 bytes. Raises UsageError for a key that is not one, or is nobody's."""
    return parse_peer_id(_spelt(public_key))


def public_key_of(peer: PeerId) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_bytes_of(peer))


def public_bytes_of(peer: PeerId) -> bytes:
    """The raw key of 32 bytes. Raises UsageError."""
    return base64.b32decode(parse_peer_id(peer).upper() + "====")


def verify(peer: PeerId, domain: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `peer` signed `message` for this very purpose. False for whatever is malformed."""
    try:
        public_key_of(peer).verify(signature, _signed(domain, message))
    except (InvalidSignature, UsageError):
        return False
    return True


class Identity:
    """Our own key. It signs, and never leaves this object but for its file."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer_id = peer_id_of(key.public_key().public_bytes_raw())

    @classmethod
    def load_or_create(cls, data_dir: Path) -> "Identity":
        """The identity kept in `data_dir`, made there if there is none. Raises UsageError for a file not to be trusted."""
        path = data_dir / KEY_FILE
        kept = private_file.read(path)
        if kept is None:
            private_file.create(path, cls.ephemeral()._to_file())
            kept = private_file.read(path)  # Another process may have been first.
        return cls._from_file(path, kept or b"")

    @classmethod
    def ephemeral(cls) -> "Identity":
        """Of this process alone."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, domain: bytes, message: bytes) -> bytes:
        """`domain` says what the signature is for, as in b"dsd-record-v1": for anything else it is worthless."""
        return self._key.sign(_signed(domain, message))

    def issue(self, certificate: x509.CertificateBuilder) -> x509.Certificate:
        """Sign a certificate. Its bytes begin with 0x30, so it is never mistaken for a message."""
        return certificate.sign(self._key, None)

    def vouch(self, statement: bytes) -> bytes:
        """Sign what another protocol prescribes to the byte; it begins with a prefix that is no domain of ours."""
        assert not statement.startswith((b"dsd-", b"\x30"))
        return self._key.sign(statement)

    def _to_file(self) -> bytes:
        return self._heading() + self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def _heading(self) -> bytes:
        """PEM may follow other text. A key that lost a bit is a key all the same, but not of the id above it."""
        return f"peer id: {self.peer_id}\n".encode()

    @classmethod
    def _from_file(cls, path: Path, kept: bytes) -> "Identity":
        try:
            key = serialization.load_pem_private_key(kept, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):  # The last for a key too short for its kind.
            key = None
        if isinstance(key, Ed25519PrivateKey):
            identity = cls(key)
            if kept.startswith(identity._heading()):
                return identity
        raise UsageError(f"{path} is damaged, or is no key of ours; restore it, or move it away to become a new peer")

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


def _signed(domain: bytes, message: bytes) -> bytes:
    if not _DOMAIN.fullmatch(domain):
        raise ValueError(f"{domain!r} is not a domain of signatures")
    # No domain holds a colon, so none of them with a message is another one with another message.
    return domain + b":" + message


def _is_somebodys(public_key: bytes) -> bool:
    height = int.from_bytes(public_key, "little") & (2**255 - 1)  # The top bit is the sign of the other coordinate.
    return height < _FIELD and height not in _NOBODYS_KEYS


def _spelt(public_key: bytes) -> str:
    return base64.b32encode(public_key).decode().rstrip("=").lower()
