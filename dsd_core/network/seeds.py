"""Whom to ask first, and in which swarm: what `--join` says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dsd_core.errors import UsageError
from dsd_core.network.address import Address
from dsd_core.network.identity import PeerId
from dsd_core.network.join_token import MAX_SEEDS, JoinToken


@dataclass(frozen=True, slots=True)
class Seeds:
    """Peers by address; where only an address was given, whoever answers there. `swarm` is None in the public one."""

    peers: Mapping[Address, PeerId | None] = field(default_factory=dict)
    swarm: bytes | None = None
    secret: bytes | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, join: Sequence[str]) -> "Seeds":
        """From each HOST:PORT or join token. Raises UsageError for neither, and for tokens of different swarms."""
        tokens = [JoinToken.decode(text) for text in join if JoinToken.looks_like_one(text)]
        if len({(token.swarm, token.secret) for token in tokens}) > 1:
            raise UsageError("the join tokens are of different swarms; pass those of one")
        peers: dict[Address, PeerId | None] = {
            Address.parse(text): None for text in join if not JoinToken.looks_like_one(text)
        }
        for token in tokens:
            peers.update(token.seeds)
        return cls(peers, tokens[0].swarm, tokens[0].secret) if tokens else cls(peers)

    @classmethod
    def of(cls, token: JoinToken | None) -> "Seeds":
        return cls(dict(token.seeds), token.swarm, token.secret) if token else cls()

    def token(self, known: Sequence[tuple[Address, PeerId]]) -> JoinToken:
        """For this swarm: the peers that are known now first, then those that were before."""
        before = [(address, peer) for address, peer in self.peers.items() if peer is not None]
        distinct = {peer: (address, peer) for address, peer in reversed([*known, *before])}
        return JoinToken(tuple(reversed(distinct.values()))[:MAX_SEEDS], self.swarm, self.secret)
