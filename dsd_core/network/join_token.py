"""What one peer hands to another, through people, so that it can join: whom to dial, and who will answer.

    "dsd1" base64url( field* checksum )        field = kind (1 byte)  length (2 bytes)  value

Later releases add fields. One of an odd kind may be skipped by who does not know it, one of an even kind may not.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dsd_core.errors import UsageError
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId, peer_id_of, public_bytes_of

MAX_CHARACTERS = 2048
MAX_SEEDS = 16
SWARM_BYTES = range(1, 65)
SECRET_BYTES = range(16, 65)

_PREFIX = "dsd1"
_SPELLING = re.compile(rf"{_PREFIX}[A-Za-z0-9_-]+")
_KEY_BYTES = 32
_CHECKSUM_BYTES = 6

_SEED, _SWARM, _SECRET = 0, 2, 4


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Raises UsageError for what no token can hold."""

    seeds: tuple[tuple[Address, PeerId], ...]
    swarm: bytes | None = None
    """Which swarm it is, where it is not the public one."""
    secret: bytes | None = field(default=None, repr=False)
    """What members of a private swarm have in common. Whoever sees the token has it."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.seeds) <= MAX_SEEDS:
            raise UsageError(f"a join token names 1 to {MAX_SEEDS} peers, not {len(self.seeds)}")
        for address, peer in self.seeds:
            public_bytes_of(peer)
            if Address.parse(str(address)).port == 0:
                raise UsageError(f"{address} cannot be dialled; name the port that the peer listens on")
        _require_length(self.swarm, SWARM_BYTES, "swarm id")
        _require_length(self.secret, SECRET_BYTES, "secret")

    @staticmethod
    def looks_like_one(text: str) -> bool:
        """Rather than like an address, which has a colon."""
        return text.strip().startswith("dsd") and ":" not in text

    def encode(self) -> str:
        """Raises UsageError if it would be too long to paste."""
        fields = [(_SEED, public_bytes_of(peer) + str(address).encode()) for address, peer in self.seeds]
        fields += [(kind, value) for kind, value in ((_SWARM, self.swarm), (_SECRET, self.secret)) if value is not None]
        payload = b"".join(bytes([kind]) + len(value).to_bytes(2, "big") + value for kind, value in fields)
        text = _spelt(payload + _checksum(payload))
        if len(text) > MAX_CHARACTERS:
            raise UsageError(f"a join token of {len(text)} characters is too long; name fewer peers")
        return text

    @classmethod
    def decode(cls, text: str) -> "JoinToken":
        """Raises UsageError, of which kind only its message says: a slip in copying, a newer release, or nonsense."""
        seeds: list[tuple[Address, PeerId]] = []
        single: dict[int, bytes] = {}
        for kind, value in _fields(_payload(text.strip())):
            if kind == _SEED:
                seeds.append(_seed(value))
            elif kind in (_SWARM, _SECRET) and kind not in single:
                single[kind] = value
            elif kind % 2 == 0:
                raise UsageError("the join token is of a newer release; update DSD, or ask for another token")
        return cls(tuple(seeds), single.get(_SWARM), single.get(_SECRET))


def _payload(text: str) -> bytes:
    if len(text) > MAX_CHARACTERS or not _SPELLING.fullmatch(text):
        raise UsageError(f"{text[:20]!r} does not begin a join token of this release, such as {_PREFIX}AbC...; copy it again")
    encoded = text.removeprefix(_PREFIX)
    try:
        whole = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error:
        whole = b""
    payload, checksum = whole[:-_CHECKSUM_BYTES], whole[-_CHECKSUM_BYTES:]
    if checksum != _checksum(payload) or _spelt(whole) != text:
        raise UsageError("the join token is cut short or mistyped; copy the whole of it again")
    return payload


def _fields(payload: bytes) -> Iterator[tuple[int, bytes]]:
    while payload:
        length = int.from_bytes(payload[1:3], "big")
        value, rest = payload[3 : 3 + length], payload[3 + length :]
        if len(payload) < 3 + length:
            raise UsageError("the join token holds half a field; ask for another")
        yield payload[0], value
        payload = rest


def _seed(value: bytes) -> tuple[Address, PeerId]:
    try:
        return Address.parse(value[_KEY_BYTES:].decode("ascii")), peer_id_of(value[:_KEY_BYTES])
    except UnicodeDecodeError:
        raise UsageError("the join token holds something else than an address; ask for another") from None


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(b"dsd-join-v1:" + payload).digest()[:_CHECKSUM_BYTES]


def _spelt(whole: bytes) -> str:
    return _PREFIX + base64.urlsafe_b64encode(whole).decode().rstrip("=")


def _require_length(value: bytes | None, lengths: range, what: str) -> None:
    if value is not None and len(value) not in lengths:
        raise UsageError(f"a {what} has {lengths.start} to {lengths.stop - 1} bytes, not {len(value)}")
