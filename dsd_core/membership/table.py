"""The records that a peer holds, and the deaths that it remembers."""

from bisect import bisect_left, insort
from collections.abc import ItemsView, Iterable, Iterator
from dataclasses import dataclass

from dsd_core.errors import OutOfCapacity, Refused
from dsd_core.membership.ids import Handle
from dsd_core.membership.record import PeerRecord, SignedRecord
from dsd_core.network.address import Address

MAX_MEMBERS = 4096
MAX_GONE = 4 * MAX_MEMBERS
MOVE_SECONDS = 60.0
"""How long a peer that moved may not move back: two nodes that share a key would do so for ever."""


@dataclass(frozen=True, slots=True)
class Member:
    """A record that is held."""

    signed: SignedRecord
    came_at: float
    signed_at: float
    """As far as is known: whoever passes a record on says how old it is. Only how long it is news hangs on that."""
    left: tuple[Address, ...] = ()
    """Where the peer lived before it moved."""
    moved_at: float = 0.0

    @property
    def record(self) -> PeerRecord:
        return self.signed.record

    @property
    def sequence(self) -> int:
        return self.signed.record.sequence

    def is_expired(self, now: float) -> bool:
        return self.came_at + self.signed.record.ttl_seconds <= now


@dataclass(frozen=True, slots=True)
class Gone:
    """A peer of the past. Nothing that it had said by then is believed again."""

    sequence: int
    is_dead: bool
    """Found dead; else its record merely ran out."""


class Table:
    """At most one record of each peer: the newest that was heard.

    What is refused stays refused, whoever brings it: a lower sequence, a second record under one sequence, and anything of a
    peer that is gone but a record that it signed later.
    """

    def __init__(self, swarm: bytes = b"") -> None:
        self._swarm = swarm
        self._members: dict[Handle, Member] = {}
        self._order: list[Handle] = []
        self.suspected: dict[Handle, float] = {}
        """Members that did not answer, and how long they have to refute it."""
        self._gone: dict[Handle, Gone] = {}
        """The longest gone first."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._members)

    def __getitem__(self, handle: Handle) -> Member:
        return self._members[handle]

    def items(self) -> ItemsView[Handle, Member]:
        return self._members.items()

    def get(self, handle: Handle) -> Member | None:
        return self._members.get(handle)

    def gone(self, handle: Handle) -> Gone | None:
        return self._gone.get(handle)

    def check(self, signed: SignedRecord, now: float) -> None:
        """Whether the record is news, before its signature is looked at.

        Raises Refused for what is not, and for a peer that contradicts itself; OutOfCapacity for one too many.
        """
        record = signed.record
        if record.swarm != self._swarm:
            raise Refused(f"{record.peer} is of another swarm; join it with that one's token")
        member, gone = self._members.get(record.handle), self._gone.get(record.handle)
        if gone and record.sequence <= gone.sequence:
            raise Refused(f"record {record.sequence} of {record.peer} is of a time that is past; only a newer one counts")
        if member is None:
            if len(self._members) >= MAX_MEMBERS:
                raise OutOfCapacity(f"{MAX_MEMBERS} peers are known already; try again later")
            return
        _require_news(member, signed)
        if _moves_back(member, record, now):
            raise Refused(f"{record.peer} lives at two addresses; give each node a --data-dir of its own")

    def admit(self, signed: SignedRecord, age_seconds: float, now: float) -> None:
        """Hold a record whose signature is good. Raises as `check` does."""
        self.check(signed, now)
        record, old = signed.record, self._members.get(signed.record.handle)
        if old is None:
            insort(self._order, record.handle)
        left, moved_at = _last_move(old, record, now)
        signed_at = now - min(max(age_seconds, 0.0), record.ttl_seconds)
        self._members[record.handle] = Member(signed, now, signed_at, left, moved_at)
        self._gone.pop(record.handle, None)
        self.suspected.pop(record.handle, None)

    def remove(self, handle: Handle, *, is_dead: bool) -> Member:
        """Forget a peer but for the highest sequence that it used."""
        member = self._members.pop(handle)
        self.suspected.pop(handle, None)
        del self._order[bisect_left(self._order, handle)]
        self._gone[handle] = Gone(member.sequence, is_dead)
        if len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        return member

    def slice(self, start: int, count: int) -> tuple[Handle, Handle, list[Handle]]:
        """`count` handles from the one at `start` of all in order, and the range of keys [first, end) that they fill.

        The ranges of successive slices leave no gap. An empty `end` is behind all keys.
        """
        found = self._order[start : start + count]
        first = self._order[start] if start else Handle(b"")
        end = self._order[start + count] if start + count < len(self._order) else Handle(b"")
        return first, end, found

    def between(self, first: Handle, end: Handle) -> list[Handle]:
        stop = bisect_left(self._order, end) if end else len(self._order)
        return self._order[bisect_left(self._order, first) : stop]

    def sequences(self, handles: Iterable[Handle]) -> dict[Handle, int]:
        return {handle: self._members[handle].sequence for handle in handles}


def _require_news(member: Member, signed: SignedRecord) -> None:
    record = signed.record
    if record.sequence < member.sequence:
        raise Refused(f"record {record.sequence} of {record.peer} is old; {member.sequence} is known")
    if record.sequence == member.sequence and signed.content != member.signed.content:
        raise Refused(f"{record.peer} says two things under sequence {record.sequence}; the first is kept")
    if record.sequence == member.sequence:
        raise Refused(f"record {record.sequence} of {record.peer} is known")


def _last_move(old: Member | None, record: PeerRecord, now: float) -> tuple[tuple[Address, ...], float]:
    if old is None:
        return (), 0.0
    return (old.left, old.moved_at) if old.record.addresses == record.addresses else (old.record.addresses, now)


def _moves_back(member: Member, record: PeerRecord, now: float) -> bool:
    back = record.addresses == member.left and record.addresses != member.record.addresses
    return back and now - member.moved_at < MOVE_SECONDS
