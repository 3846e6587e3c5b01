"""Links, speed and room, by the records of a swarm."""

import pytest

from dsd_core.membership.ids import handle_of
from dsd_core.membership.record import Capacity
from dsd_core.membership.ways import has_room, stage_seconds, stated_round_trips
from dsd_core.network.identity import Identity
from tests.membership.conftest import record_of

ONE, OTHER, ELSEWHERE = Identity.ephemeral(), Identity.ephemeral(), Identity.ephemeral()


def test_round_trips_are_between_those_who_are_known() -> None:
    said = {handle_of(OTHER.peer_id): 0.02, handle_of(ELSEWHERE.peer_id): 0.3}
    records = {"a": record_of(ONE, round_trips=said), "b": record_of(OTHER, round_trips={handle_of(ONE.peer_id): 0.03})}
    assert stated_round_trips(records) == {("a", "b"): 0.02, ("b", "a"): 0.03}


def test_a_frame_of_several_nodes_takes_longer() -> None:
    assert stage_seconds(record_of(ONE, capacity=Capacity(1, 1, 0.01, 0.002))) == pytest.approx(0.018)


@pytest.mark.parametrize("free", [0, 1])
def test_room(free: int) -> None:
    assert has_room(record_of(ONE, capacity=Capacity(free, 200))) is bool(free)
