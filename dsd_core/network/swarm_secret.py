"""A private swarm: who knows its secret proves so in each call, and shows it to nobody.

The proof is an HMAC over both ends of the call. TLS shows that the caller is who it is, and pins who answers: so a proof that
somebody got to see, as every peer that is called does, is worth nothing to anybody else, nor towards anybody else.
"""

import hashlib
import hmac
from collections.abc import Callable

import grpc

from dsd_core.errors import Refused
from dsd_core.network.identity import PeerId, public_bytes_of

SECRET_BYTES = 32
PROOF_KEY = "dsd-swarm-proof"
_SWARM_ID_BYTES = 16


def swarm_id(secret: bytes) -> bytes:
    """What a private swarm is called; it gives nothing away."""
    return hmac.digest(secret, b"dsd-swarm-id-v1", hashlib.sha256)[:_SWARM_ID_BYTES]


def proof(secret: bytes, caller: PeerId, server: PeerId) -> str:
    message = b"dsd-swarm-proof-v1:" + public_bytes_of(caller) + public_bytes_of(server)
    return hmac.digest(secret, message, hashlib.sha256).hex()


def require_proof(secret: bytes, caller: PeerId, server: PeerId, shown: object) -> None:
    """Raises Refused unless the caller has shown that it knows the secret."""
    if not isinstance(shown, str) or not hmac.compare_digest(shown.encode(), proof(secret, caller, server).encode()):
        raise Refused("this swarm is private; join it with a token that one of its members gives you")


class ProofInEachCall(grpc.AuthMetadataPlugin):
    """For `grpc.metadata_call_credentials` of a channel to one peer."""

    def __init__(self, shown: str) -> None:
        self._metadata = ((PROOF_KEY, shown),)

    def __call__(self, context: object, callback: Callable[[tuple[tuple[str, str], ...], Exception | None], None]) -> None:
        callback(self._metadata, None)
