"""One peer's view of the swarm, kept by gossip.

    alive --no answer, nor to others--> suspected --window passes--> gone
      ^                                     |                          |
      +------- a newer record, signed by the peer itself --------------+

A round is one exchange with one peer: the question says what we hold, the answer brings what we lack and asks for what it
lacks itself. The answer is also a sign of life, so there are no other pings (SWIM, section 3.1). Peers are asked in turn, in an
order that is drawn anew each time around, so that each is tried within a known time (SWIM, section 4.3).

Who is suspected can refute it by a newer record (SWIM, section 4.2: the record's sequence is the incarnation). All who hear
of the suspicion wait for themselves, so nobody ever claims a death: there is no such message.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, islice

from dsd_core.errors import DsdError
from dsd_core.membership.events import (
    Action,
    Answered,
    Asked,
    Event,
    Exchange,
    Found,
    Gossip,
    Held,
    Introduced,
    Lost,
    Passed,
    ProbeThrough,
    Publish,
    Published,
    Reply,
    Tick,
    Unanswered,
    Usurped,
    Vouched,
)
from dsd_core.membership.ids import Handle, PeerId, handle_of
from dsd_core.membership.record import PeerRecord, SignedRecord
from dsd_core.membership.table import Member, Table
from dsd_core.network.address import Address

Draw = Callable[[int], int]
"""A random whole number from 0 up to, not including, the argument."""

MAX_RECORDS = 1024
"""In one message."""
MAX_SUSPECTED = 64
MAX_OUTSIDERS = 64
HELPERS = 3
TOLD_AT_ONCE = 3
SLICE = 8
"""Records whose sequences are compared in a round beside the news, so that what was missed is found in the end."""
OUTSIDE_ROUNDS = 10
"""An outsider is tried each time so many rounds have passed: a seed, or one of the dead, who may be back."""


@dataclass(frozen=True, slots=True)
class MembershipConfig:
    """The pace of it all. Records are refreshed the more seldom the more peers there are, as each goes to all of them."""

    round_seconds: float = 1.0
    refresh_rounds: int = 30
    refresh_rounds_a_member: float = 1.0
    swarm: bytes = b""

    def refresh_seconds(self, members: int) -> float:
        return self.round_seconds * max(self.refresh_rounds, self.refresh_rounds_a_member * members)

    def ttl_seconds(self, members: int) -> int:
        """Four refreshes: one that is late has not died."""
        return max(1, math.ceil(4 * self.refresh_seconds(members)))

    def spread_seconds(self, members: int) -> float:
        """How long news takes to everybody, with some to spare."""
        return self.round_seconds * (math.log2(members + 1) + 2)

    def suspicion_seconds(self, members: int) -> float:
        """Time for the suspicion to reach its peer, and for the refutation to come back."""
        return 2 * self.spread_seconds(members)


class Membership:
    """Decides; whoever drives it gives a Tick each round and performs the actions."""

    def __init__(self, myself: PeerId, draw: Draw, config: MembershipConfig | None = None) -> None:
        self.config = config or MembershipConfig()
        self.table = Table(self.config.swarm)
        self._myself = myself
        self._me = handle_of(myself)
        self._draw = draw
        self._rounds = 0
        self._turn: list[Handle] = []
        """Whom to ask before an order is drawn again, the next one last."""
        self._cursor = 0
        self._compared: list[Handle] = []
        """The slice of the table that the last round compared."""
        self._news: dict[Handle, float] = {}
        """When the records were signed that may not have reached everybody yet."""
        self._outsiders: dict[PeerId, tuple[Address, ...]] = {}

    def records(self, now: float) -> list[SignedRecord]:
        """Of all members that are not suspected, ourselves among them."""
        members = (member for handle, member in self.table.items() if handle not in self.table.suspected)
        return [member.signed for member in members if not member.is_expired(now)]

    def suspected(self, now: float) -> list[SignedRecord]:
        """Of all members that are."""
        members = (self.table[handle] for handle in self.table.suspected)
        return [member.signed for member in members if not member.is_expired(now)]

    def step(self, event: Event, now: float) -> list[Action]:
        match event:
            case Tick():
                return self._on_tick(now)
            case Published(signed):
                return self._on_published(signed, now)
            case Introduced(peer, addresses):
                return self._on_introduced(peer, addresses)
            case Asked(gossip):
                return [*self._learn(gossip, now), Reply(self._answer(gossip, now))]
            case Answered(peer, gossip):
                return self._on_answered(peer, gossip, now)
            case Unanswered(peer):
                return self._on_unanswered(peer, now)
            case Vouched(peer, alive):
                return [] if alive else self._on_silence(handle_of(peer), now)

    # -- rounds --------------------------------------------------------------------------------------------------------

    def _on_tick(self, now: float) -> list[Action]:
        self._rounds += 1
        actions: list[Action] = [*self._remove_overdue(now), *self._refresh(now)]
        self._forget_old_news(now)
        partner = self._next_in_turn()
        if partner is not None:
            actions.append(self._exchange(partner.peer, partner.addresses))
        if self._outsiders and (partner is None or self._rounds % OUTSIDE_ROUNDS == 0):
            peer = list(self._outsiders)[self._draw(len(self._outsiders))]
            actions.append(self._exchange(peer, self._outsiders[peer]))
        return actions

    def _remove_overdue(self, now: float) -> list[Action]:
        """The suspected whose window has passed; and of the records that were last compared, those that ran out."""
        dead = [handle for handle, until in self.table.suspected.items() if until <= now]
        lost: list[Action] = [self._remove(handle, is_dead=True) for handle in dead]
        expired = [handle for handle in self._compared if self._is_expired(handle, now)]
        return lost + [self._remove(handle, is_dead=False) for handle in expired]

    def _is_expired(self, handle: Handle, now: float) -> bool:
        member = self.table.get(handle)
        return member is not None and handle != self._me and member.is_expired(now)

    def _refresh(self, now: float) -> list[Action]:
        mine = self.table.get(self._me)
        if mine is not None and now - mine.came_at < self.config.refresh_seconds(len(self.table)):
            return []
        return [self._publish(mine.sequence if mine else 0)]

    def _publish(self, above: int) -> Publish:
        return Publish(above, self.config.ttl_seconds(len(self.table) + 1))

    def _next_in_turn(self) -> PeerRecord | None:
        if not self._turn:
            self._turn = [handle for handle in self.table if handle != self._me]
            _shuffle(self._turn, self._draw)
        while self._turn:
            if (member := self.table.get(self._turn.pop())) is not None:
                return member.record
        return None

    def _exchange(self, peer: PeerId, addresses: tuple[Address, ...]) -> Exchange:
        return Exchange(peer, addresses, Gossip(held=self._held(), suspected=self._suspected()))

    def _held(self) -> Held:
        if self._cursor >= len(self.table):
            self._cursor = 0
        first, end, self._compared = self.table.slice(self._cursor, SLICE)
        self._cursor += SLICE
        mine = [self._me] if self.table.get(self._me) else []
        return Held(self.table.sequences(chain(self._compared, self._news, mine)), first, end)

    def _suspected(self) -> dict[Handle, int]:
        return self.table.sequences(islice(self.table.suspected, MAX_SUSPECTED))

    def _forget_old_news(self, now: float) -> None:
        old_age = self.config.spread_seconds(len(self.table))
        self._news = {handle: signed_at for handle, signed_at in self._news.items() if now - signed_at <= old_age}

    def _on_published(self, signed: SignedRecord, now: float) -> list[Action]:
        """Our own news does not wait for the next round."""
        passed = Passed(signed, 0.0)
        self._admit(passed, now)
        gossip = Gossip(records=(passed,))
        return [Exchange(other.peer, other.addresses, gossip) for other in self._some_others(TOLD_AT_ONCE)]

    # -- what others say -----------------------------------------------------------------------------------------------

    def _on_introduced(self, peer: PeerId, addresses: tuple[Address, ...]) -> list[Action]:
        if peer == self._myself or self.table.get(handle_of(peer)) is not None:
            return []
        self._add_outsider(peer, addresses)
        return [self._exchange(peer, addresses)]

    def _on_answered(self, peer: PeerId, gossip: Gossip, now: float) -> list[Action]:
        actions = self._learn(gossip, now)
        wanted = [member for handle in gossip.wanted if (member := self.table.get(handle)) is not None]
        if wanted and (addresses := self._addresses(peer)):
            actions.append(Exchange(peer, addresses, Gossip(records=tuple(_passed(member, now) for member in wanted))))
        return actions

    def _addresses(self, peer: PeerId) -> tuple[Address, ...]:
        member = self.table.get(handle_of(peer))
        return member.record.addresses if member else self._outsiders.get(peer, ())

    def _learn(self, gossip: Gossip, now: float) -> list[Action]:
        actions = [action for passed in gossip.records for action in self._hear(passed, now)]
        for handle, sequence in gossip.suspected.items():
            actions += self._suspect(handle, sequence, now)
        return actions

    def _hear(self, passed: Passed, now: float) -> list[Action]:
        record = passed.signed.record
        if record.peer == self._myself:
            return self._on_own_record(record)
        is_new = self.table.get(record.handle) is None
        try:
            self._admit(passed, now)
        except DsdError:  # It was checked when it came; another was faster.
            return []
        return [Found(record.peer)] if is_new else []

    def _admit(self, passed: Passed, now: float) -> None:
        record = passed.signed.record
        self.table.admit(passed.signed, passed.age_seconds, now)
        self._news[record.handle] = now - passed.age_seconds
        self._outsiders.pop(record.peer, None)

    def _on_own_record(self, record: PeerRecord) -> list[Action]:
        """One that we have not signed in this life must not outlive it: our clock was set back, or our key is used twice."""
        mine = self.table.get(self._me)
        if mine is None or record.sequence <= mine.sequence:
            return []
        usurped = [Usurped(record.addresses)] if record.addresses != mine.record.addresses else []
        return [*usurped, self._publish(record.sequence)]

    def _answer(self, gossip: Gossip, now: float) -> Gossip:
        if gossip.held is None:
            return Gossip()
        held = gossip.held.sequences
        brought: list[Member] = []
        wanted: list[Handle] = []
        suspected = self._suspected()
        for handle, sequence in held.items():
            member, gone = self.table.get(handle), self.table.gone(handle)
            if member is not None and member.sequence > sequence:
                brought.append(member)
            elif gone is not None and sequence <= gone.sequence:
                if gone.is_dead:
                    suspected[handle] = sequence
            elif member is None or member.sequence < sequence:
                wanted.append(handle)
        for handle in chain(self.table.between(gossip.held.first, gossip.held.end), self._news):
            if handle not in held and (member := self.table.get(handle)) is not None:
                brought.append(member)
        records = {member.record.handle: _passed(member, now) for member in brought[:MAX_RECORDS]}
        return Gossip(records=tuple(records.values()), wanted=tuple(wanted[:MAX_RECORDS]), suspected=suspected)

    # -- death ---------------------------------------------------------------------------------------------------------

    def _on_unanswered(self, peer: PeerId, now: float) -> list[Action]:
        member = self.table.get(handle_of(peer))
        if member is None or member.record.handle in self.table.suspected:
            return []
        helpers = self._helpers(member.record.handle)
        return [ProbeThrough(helpers, peer)] if helpers else self._suspect(member.record.handle, member.sequence, now)

    def _helpers(self, silent: Handle) -> tuple[PeerId, ...]:
        return tuple(record.peer for record in self._some_others(HELPERS, silent))

    def _some_others(self, count: int, but: Handle | None = None) -> list[PeerRecord]:
        """By lot, of those who are not suspected."""
        others = [handle for handle in self.table if handle not in (but, self._me) and handle not in self.table.suspected]
        _shuffle(others, self._draw)
        return [self.table[handle].record for handle in others[:count]]

    def _on_silence(self, handle: Handle, now: float) -> list[Action]:
        member = self.table.get(handle)
        return self._suspect(handle, member.sequence, now) if member is not None else []

    def _suspect(self, handle: Handle, sequence: int, now: float) -> list[Action]:
        member = self.table.get(handle)
        if member is None or sequence != member.sequence:
            return []  # Refuted already; or of a record that we have not seen, so it may be made up.
        if handle == self._me:
            return [self._publish(member.sequence)]
        self.table.suspected.setdefault(handle, now + self.config.suspicion_seconds(len(self.table)))
        return []

    def _remove(self, handle: Handle, is_dead: bool) -> Lost:
        record = self.table.remove(handle, is_dead=is_dead).record
        self._news.pop(handle, None)
        self._add_outsider(record.peer, record.addresses)
        return Lost(record.peer, is_dead)

    def _add_outsider(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        self._outsiders[peer] = addresses
        while len(self._outsiders) > MAX_OUTSIDERS:
            del self._outsiders[next(iter(self._outsiders))]


def _passed(member: Member, now: float) -> Passed:
    return Passed(member.signed, now - member.signed_at)


def _shuffle(handles: list[Handle], draw: Draw) -> None:
    """Fisher and Yates's."""
    for last in range(len(handles) - 1, 0, -1):
        other = draw(last + 1)
        handles[last], handles[other] = handles[other], handles[last]
