"""Many peers in virtual time: every message takes a while, and may be lost."""

import heapq
import random
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from itertools import count

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsd_core.membership.events import (
    Action,
    Answered,
    Asked,
    Event,
    Exchange,
    Found,
    Gossip,
    Lost,
    ProbeThrough,
    Publish,
    Published,
    Reply,
    Tick,
    Unanswered,
    Usurped,
    Vouched,
)
from dsd_core.membership.ids import HANDLE_BYTES, Handle, PeerId, handle_of
from dsd_core.membership.membership import Membership, MembershipConfig
from dsd_core.membership.record import SignedRecord
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from tests.membership.conftest import record_of, signed_by

TIMEOUT = 2.0
CALL_BYTES = 150
"""What TLS, HTTP/2 and gRPC add to a message on a standing connection, more or less."""


class SimulatedSwarm:
    """`size` peers that all know each other already, unless `acquainted` is False. Time stands still between `run`s."""

    def __init__(
        self, size: int, *, seed: int = 1, loss: float = 0.0, acquainted: bool = True, config: MembershipConfig | None = None
    ) -> None:
        self.config = config or MembershipConfig()
        self.chance = random.Random(seed)
        self._size = size
        self.loss = loss
        self.now = 0.0
        self.bytes: Counter[PeerId] = Counter()
        """Sent and received, of each peer."""
        self.lost: list[tuple[PeerId, Lost]] = []
        self.suspicions = 0
        self.down: set[PeerId] = set()
        self.cut: set[PeerId] = set()
        """Who cannot reach the others, nor be reached."""
        self.peers: dict[PeerId, Membership] = {}
        self._records: dict[PeerId, SignedRecord] = {}
        self._content = b""
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        for _ in range(size):
            self.add()
        if acquainted:
            self._acquaint()

    def add(self) -> PeerId:
        """A new peer, which knows nobody."""
        record = record_of(Identity(_key(self.chance)), ttl_seconds=self.config.ttl_seconds(self._size))
        self._content = self._content or typical_content()
        self.peers[record.peer] = Membership(record.peer, self.chance.randrange, self.config)
        self._records[record.peer] = SignedRecord(record, self._content, b"s" * 64)
        self.peers[record.peer].step(Published(self._records[record.peer]), self.now)
        self._later(self.chance.random() * self.config.round_seconds, lambda: self._tick(record.peer))
        return record.peer

    def introduce(self, peer: PeerId, other: PeerId, event: Callable[[PeerId, tuple[Address, ...]], Event]) -> None:
        self.give(peer, event(other, self._records[other].record.addresses))

    def publish(self, peer: PeerId) -> None:
        self._publish(peer, Publish(self._records[peer].record.sequence, self.config.ttl_seconds(len(self.peers))))

    def know(self, peer: PeerId) -> int:
        """How many peers hold the newest record of `peer`."""
        newest = self._records[peer].record.sequence
        held = (membership.table.get(handle_of(peer)) for membership in self.peers.values())
        return sum(member is not None and member.sequence == newest for member in held)

    def run(self, rounds: float) -> None:
        until = self.now + rounds * self.config.round_seconds
        while self._coming and self._coming[0][0] <= until:
            self.now, _, happen = heapq.heappop(self._coming)
            happen()
        self.now = until

    def give(self, peer: PeerId, event: Event) -> None:
        if peer not in self.down:
            for action in self.peers[peer].step(event, self.now):
                self._perform(peer, action)

    def _acquaint(self) -> None:
        """Copies of one table, in which each record was signed some time within a refresh."""
        table = self.peers[next(iter(self.peers))].table
        for signed in self._records.values():
            self.now = -self.chance.random() * self.config.refresh_seconds(len(self.peers))
            if table.get(handle_of(signed.record.peer)) is None:
                table.admit(signed, 0.0, self.now)
        self.now = 0.0
        for peer, membership in self.peers.items():
            membership.table = copy(table)
            membership.table._members = table._members | {handle_of(peer): table[handle_of(peer)]}
            membership.table._order = list(table._order)
            membership.table.suspected, membership.table._gone = {}, {}

    def _tick(self, peer: PeerId) -> None:
        self.give(peer, Tick())
        self._later(self.config.round_seconds, lambda: self._tick(peer))

    def _perform(self, peer: PeerId, action: Action) -> None:
        match action:
            case Exchange():
                self._exchange(peer, action)
            case ProbeThrough(helpers, silent):
                self._probe(peer, helpers, silent)
            case Publish():
                self._publish(peer, action)
            case Lost():
                self.lost.append((peer, action))
            case Found() | Reply() | Usurped():
                pass

    def _exchange(self, peer: PeerId, exchange: Exchange) -> None:
        def ask() -> None:
            *actions, reply = self.peers[exchange.peer].step(Asked(exchange.gossip), self.now)
            for action in actions:
                self._perform(exchange.peer, action)
            assert isinstance(reply, Reply)
            answer = Answered(exchange.peer, reply.gossip)
            self._count(exchange.peer, peer, size_of(reply.gossip))
            self._later(self._latency(), lambda: self.give(peer, answer))

        self._count(peer, exchange.peer, size_of(exchange.gossip))
        if self._passes(peer, exchange.peer) and self._passes(exchange.peer, peer):
            self._later(self._latency(), ask)
        else:
            self._later(TIMEOUT, lambda: self.give(peer, Unanswered(exchange.peer)))

    def _probe(self, peer: PeerId, helpers: tuple[PeerId, ...], silent: PeerId) -> None:
        hops = [((peer, helper), (helper, silent), (silent, helper), (helper, peer)) for helper in helpers]
        alive = any(all(self._passes(*hop) for hop in path) for path in hops)
        self.suspicions += not alive
        self._later(self._latency() * 4 if alive else TIMEOUT, lambda: self.give(peer, Vouched(silent, alive)))

    def _publish(self, peer: PeerId, publish: Publish) -> None:
        record = self._records[peer].record
        record = replace(record, sequence=max(record.sequence, publish.above) + 1, ttl_seconds=publish.ttl_seconds)
        self._records[peer] = SignedRecord(record, self._content, b"s" * 64)
        self.give(peer, Published(self._records[peer]))

    def _passes(self, sender: PeerId, receiver: PeerId) -> bool:
        is_cut = (sender in self.cut) != (receiver in self.cut)
        return not is_cut and not self.down & {sender, receiver} and self.chance.random() >= self.loss

    def _latency(self) -> float:
        return 0.02 + 0.1 * self.chance.random()

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._coming, (self.now + seconds, next(self._number), happen))

    def _count(self, sender: PeerId, receiver: PeerId, size: int) -> None:
        self.bytes[sender] += size + CALL_BYTES
        self.bytes[receiver] += size + CALL_BYTES


def _key(chance: random.Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))


def typical_content() -> bytes:
    """The bytes of a record with nothing left out: all the round trips that it may have."""
    handles = [Handle(bytes([index]) * HANDLE_BYTES) for index in range(16)]
    return signed_by(Identity.ephemeral(), 1_800_000_000_000, round_trips=dict.fromkeys(handles, 0.05)).content


def size_of(gossip: Gossip) -> int:
    """What the message takes on the wire, to a twentieth: `test_the_size_of_a_message` compares."""
    held = len(gossip.held.sequences) if gossip.held else 0
    digest = held + len(gossip.suspected)
    records = sum(len(passed.signed.content) + 64 + 13 for passed in gossip.records)
    return 30 * (gossip.held is not None) + digest * (HANDLE_BYTES + 6) + records + len(gossip.wanted) * HANDLE_BYTES
