"""How peers reach each other and know each other: over mutual TLS, or, on one machine and on request, in the clear."""

import hashlib
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from dsd_core.errors import UsageError
from dsd_core.network.address import Address
from dsd_core.network.certificates import CHANNEL_OPTIONS, caller, channel_credentials, peer_id_at, server_credentials
from dsd_core.network.channels import CLIENT_OPTIONS
from dsd_core.network.identity import Identity, PeerId, peer_id_of
from dsd_core.network.known_peers import KnownPeers
from dsd_core.network.swarm_secret import PROOF_KEY, ProofInEachCall, proof, require_proof


class Transport(Protocol):
    """One peer's end of all its connections."""

    @property
    def peer_id(self) -> PeerId:
        """Our own."""
        ...

    def listen(self, server: grpc.aio.Server, address: Address) -> int:
        """Returns the port. Raises RuntimeError where nobody can listen, UsageError where we may not."""
        ...

    async def meet(self, address: Address) -> tuple[PeerId, bool]:
        """Who answers at an address that came without a peer id, and whether it is the first time. Raises DsdError."""
        ...

    def channel(self, address: Address, peer: PeerId) -> grpc.aio.Channel:
        """On which nobody but `peer` can answer. It dials when first used; close it."""
        ...

    def caller(self, context: Any) -> PeerId:
        """Who makes a call. Raises Refused if that is not proven."""
        ...


class Secure:
    """Mutual TLS between peers that are known by their keys (certificates.py). Trust on first use is kept in `known`."""

    def __init__(self, identity: Identity, known: KnownPeers, secret: bytes | None = None) -> None:
        self.identity = identity
        self._known = known
        self._secret = secret
        """Of a private swarm: whoever does not know it is refused (swarm_secret.py)."""

    @classmethod
    def kept_in(cls, data_dir: Path | None, secret: bytes | None = None) -> "Secure":
        """Identity and known peers of a directory; with None, of this process alone."""
        identity = Identity.load_or_create(data_dir) if data_dir else Identity.ephemeral()
        return cls(identity, KnownPeers(data_dir), secret)

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    def listen(self, server: grpc.aio.Server, address: Address) -> int:
        return server.add_secure_port(str(address), server_credentials(self.identity))

    async def meet(self, address: Address) -> tuple[PeerId, bool]:
        peer = await peer_id_at(address)
        return peer, self._known.pin(address, peer)

    def channel(self, address: Address, peer: PeerId) -> grpc.aio.Channel:
        credentials = channel_credentials(self.identity, peer)
        if self._secret is not None:
            shown = grpc.metadata_call_credentials(ProofInEachCall(proof(self._secret, self.peer_id, peer)))
            credentials = grpc.composite_channel_credentials(credentials, shown)
        return grpc.aio.secure_channel(str(address), credentials, options=[*CLIENT_OPTIONS, *CHANNEL_OPTIONS])

    def caller(self, context: Any) -> PeerId:
        peer = caller(context)
        if self._secret is not None:
            require_proof(self._secret, peer, self.peer_id, dict(context.invocation_metadata() or ()).get(PROOF_KEY))
        return peer


EVERYBODY = peer_id_of(hashlib.sha256(b"dsd: everybody in the clear").digest())
"""Nobody holds its key, so it passes nowhere but in the clear. The same in all processes: stages are named to each other."""


class Plaintext:
    """No TLS, on loopback addresses only. Nobody proves anything: every peer passes for the same one."""

    @property
    def peer_id(self) -> PeerId:
        return EVERYBODY

    def listen(self, server: grpc.aio.Server, address: Address) -> int:
        address.require_loopback()
        return server.add_insecure_port(str(address))

    async def meet(self, address: Address) -> tuple[PeerId, bool]:
        address.require_loopback()
        return EVERYBODY, False

    def channel(self, address: Address, peer: PeerId) -> grpc.aio.Channel:
        address.require_loopback()
        return grpc.aio.insecure_channel(str(address), options=CLIENT_OPTIONS)

    def caller(self, context: Any) -> PeerId:
        return EVERYBODY


def transport(data_dir: Path | None, *, insecure_loopback: bool, secret: bytes | None = None) -> Transport:
    """What the options of a command or of the SDK ask for. Raises UsageError for a secret in the clear."""
    if not insecure_loopback:
        return Secure.kept_in(data_dir, secret)
    if secret is not None:
        raise UsageError("a private swarm needs TLS; leave out --insecure-loopback")
    return Plaintext()
