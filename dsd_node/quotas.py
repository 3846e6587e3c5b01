"""Who may hold how much of this node: of its memory for sessions, of its sessions, and of its calls under way.

    one peer            at most `peer_share` of each
    a stranger          at most half of that; it has not been seen to finish a session
    all strangers       at most three quarters together, so that new identities, which cost nothing, cannot lock others out
"""

import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from dsd_core.errors import OutOfCapacity, UsageError
from dsd_core.network.identity import PeerId
from dsd_node.appointments import Appointments

MAX_SESSIONS = 128
MAX_CALLS = 1024
PEER_SHARE = 0.25
RETRY_SECONDS = 2.0
"""Nobody that is refused need come again sooner."""
STRANGERS_SHARE = 0.75
KNOWN_PEERS = 4096
"""So many are remembered, those last seen."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What there is to share out."""

    kv_bytes: int = 0
    """Of memory for sessions; see `Quotas.grant`."""
    sessions: int = MAX_SESSIONS
    calls: int = MAX_CALLS
    peer_share: float = PEER_SHARE

    def __post_init__(self) -> None:
        if not 0 < self.peer_share <= 1:
            raise UsageError(f"a peer's share is {self.peer_share}; it must be above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a peer holds of a pool. Hand it back once."""

    peer: PeerId
    amount: int
    stranger: bool


class Pool:
    """One thing of which there is only so much."""

    def __init__(self, unit: str, total: int, peer_share: float, clock: Callable[[], float]) -> None:
        self._unit = unit
        self.total = total
        self._peer_share = peer_share
        self._held: Counter[PeerId] = Counter()
        self._in_use = 0
        self._with_strangers = 0
        self._clock = clock
        self._appointments = Appointments()
        self._own_appointments: defaultdict[PeerId, Appointments] = defaultdict(Appointments)
        """Of those who hold their share: however often they ask, nobody else waits longer for it."""

    @property
    def free(self) -> int:
        return self.total - self._in_use

    def claim(self, peer: PeerId, amount: int, *, stranger: bool) -> Claim:
        """Raises OutOfCapacity, with a hint when to try again unless `amount` alone is too much."""
        share = int(self.total * self._peer_share * (0.5 if stranger else 1.0))
        if amount > share:
            raise OutOfCapacity(f"you may hold {share} {self._unit} here, not {amount}; ask for less, or another node")
        if self._held[peer] + amount > share:
            own = self._own_appointments[peer]
            raise self._later(f"you hold {self._held[peer]} {self._unit} here, and may hold {share}", own)
        if self._in_use + amount > self.total:
            raise self._later(f"the node has given out {self._in_use} of {self.total} {self._unit}")
        if stranger and self._with_strangers + amount > self.total * STRANGERS_SHARE:
            raise self._later(f"strangers hold {self._with_strangers} of {self.total} {self._unit}; the rest is kept")
        self._book(claim := Claim(peer, amount, stranger), +1)
        return claim

    def give_back(self, claim: Claim) -> None:
        self._book(claim, -1)
        self._appointments.freed(self._clock())
        if claim.peer in self._own_appointments:
            self._own_appointments[claim.peer].freed(self._clock())
        if not self._held[claim.peer]:
            del self._held[claim.peer]
            self._own_appointments.pop(claim.peer, None)

    def _book(self, claim: Claim, sign: int) -> None:
        self._held[claim.peer] += sign * claim.amount
        self._in_use += sign * claim.amount
        self._with_strangers += sign * claim.amount * claim.stranger

    def _later(self, why: str, appointments: Appointments | None = None) -> OutOfCapacity:
        retry_after = (appointments or self._appointments).make(self._clock(), RETRY_SECONDS)
        return OutOfCapacity(f"{why}; try again later, or another node", retry_after=retry_after)


class Quotas:
    """The node's books. What is claimed here is given back here, whatever became of it."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._memory = Pool("bytes for sessions", limits.kv_bytes, limits.peer_share, clock)
        self._places = Pool("sessions", limits.sessions, limits.peer_share, clock)
        self._calls = Pool("calls", limits.calls, limits.peer_share, clock)
        self._sessions: dict[bytes, tuple[Claim, Claim]] = {}
        self._known: OrderedDict[PeerId, None] = OrderedDict()

    def grant(self, kv_bytes: int) -> None:
        """So much memory is there for sessions from now on: how much is known only when the span has taken its own."""
        self._memory.total = kv_bytes

    def __contains__(self, session_id: bytes) -> bool:
        """Whether a session of this id is open or being opened."""
        return session_id in self._sessions

    @property
    def sessions(self) -> int:
        """That are open or being opened."""
        return len(self._sessions)

    @property
    def total_bytes(self) -> int:
        """Of memory for sessions."""
        return self._memory.total

    @property
    def free_bytes(self) -> int:
        return self._memory.free

    def open_session(self, session_id: bytes, owner: PeerId, nbytes: int) -> None:
        """Claim a place and memory for a session. Raises OutOfCapacity."""
        stranger = owner not in self._known
        place = self._places.claim(owner, 1, stranger=stranger)
        try:
            memory = self._memory.claim(owner, nbytes, stranger=stranger)
        except OutOfCapacity:
            self._places.give_back(place)
            raise
        self._sessions[session_id] = place, memory

    def close_session(self, session_id: bytes) -> None:
        place, memory = self._sessions.pop(session_id)
        self._places.give_back(place)
        self._memory.give_back(memory)

    def begin_call(self, peer: PeerId) -> Claim:
        """Raises OutOfCapacity. Hand the claim to `end_call`."""
        return self._calls.claim(peer, 1, stranger=peer not in self._known)

    def end_call(self, claim: Claim) -> None:
        self._calls.give_back(claim)

    def remember(self, peer: PeerId) -> None:
        """It was seen to finish a session, so it is no stranger any more."""
        self._known[peer] = None
        self._known.move_to_end(peer)
        if len(self._known) > KNOWN_PEERS:
            self._known.popitem(last=False)
