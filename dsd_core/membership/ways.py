"""What records say of the ways through a swarm."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

from dsd_core.membership.ids import handle_of
from dsd_core.membership.record import PeerRecord

Place = TypeVar("Place", bound=Hashable)

FRAME_NODES = 4
"""Of a frame as conversations send them."""


def stated_round_trips(records: Mapping[Place, PeerRecord]) -> dict[tuple[Place, Place], float]:
    """Seconds between the places where these peers live, as far as the one that comes first in the pair has measured them."""
    places = {handle_of(record.peer): place for place, record in records.items()}
    return {
        (place, places[handle]): seconds
        for place, record in records.items()
        for handle, seconds in record.round_trips.items()
        if handle in places
    }


def stage_seconds(record: PeerRecord) -> float:
    """What a frame takes there; 0 as long as the peer has not measured it."""
    return record.capacity.frame_seconds + FRAME_NODES * record.capacity.node_seconds


def has_room(record: PeerRecord) -> bool:
    """For one more session, by what the peer said last."""
    return record.capacity.free_positions > 0
