"""What happens to a peer's membership, and what it wants done."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dsd_core.membership.ids import Handle, PeerId
from dsd_core.membership.record import SignedRecord
from dsd_core.network.address import Address

# -- what two peers tell each other ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """Records by sequence: all that are news, and all of the keys in [first, end). An empty `end` is behind all keys."""

    sequences: Mapping[Handle, int]
    first: Handle
    end: Handle


@dataclass(frozen=True, slots=True)
class Passed:
    """A record on its way, and how long ago it was signed."""

    signed: SignedRecord
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Gossip:
    """What one peer tells another, in a question or in an answer."""

    held: Held | None = None
    """What the answer is to be compared with; None in answers, and where only records are brought."""
    records: tuple[Passed, ...] = ()
    wanted: tuple[Handle, ...] = ()
    """In answers: what it lacks."""
    suspected: Mapping[Handle, int] = field(default_factory=dict)
    """Who did not answer, with the sequence of the record that was held when it did not."""


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """It is time for a round."""


@dataclass(frozen=True, slots=True)
class Published:
    """Our own record was signed anew."""

    signed: SignedRecord


@dataclass(frozen=True, slots=True)
class Introduced:
    """A peer is said to live somewhere: by a person, by the disk, by the LAN."""

    peer: PeerId
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A peer sends its gossip. The signatures are good."""

    gossip: Gossip


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back on an Exchange. The signatures are good."""

    peer: PeerId
    gossip: Gossip


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Nothing came back on an Exchange."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Vouched:
    """Whether any helper of a ProbeThrough reached the peer."""

    peer: PeerId
    alive: bool


Event = Tick | Published | Introduced | Asked | Answered | Unanswered | Vouched

# -- actions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send gossip to a peer; comes back as Answered or Unanswered."""

    peer: PeerId
    addresses: tuple[Address, ...]
    gossip: Gossip


@dataclass(frozen=True, slots=True)
class ProbeThrough:
    """Ask each helper to try a peer that does not answer us; comes back as Vouched."""

    helpers: tuple[PeerId, ...]
    peer: PeerId


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer the Asked that was just given."""

    gossip: Gossip


@dataclass(frozen=True, slots=True)
class Publish:
    """Sign a record of a higher sequence than `above`, to last `ttl_seconds`; comes back as Published."""

    above: int
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Usurped:
    """Somebody signs with our key, and lives elsewhere."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A peer is a member that was not."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Lost:
    """A peer is no member any more."""

    peer: PeerId
    is_dead: bool


Action = Exchange | ProbeThrough | Reply | Publish | Usurped | Found | Lost
