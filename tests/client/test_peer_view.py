"""How a peer looks from here: by what it says itself, by its record, and when it says nothing."""

from dsd_client.peer_view import PeerView, coverage
from dsd_client.stage import Stage
from dsd_core.errors import PeerLost, ProtocolError, Refused
from dsd_core.membership.ids import PeerId
from dsd_core.membership.record import Capacity, Holding, PeerRecord, Role, State
from dsd_core.network.address import Address
from dsd_core.wire.v1 import stage_pb2

HERE = Address("127.0.0.1", 4100)
PEER = PeerId("peer")
SAID = stage_pb2.DescribeResponse(
    model="tiny", first_layer=1, end_layer=3, num_layers=4, dtype=stage_pb2.DATA_TYPE_FLOAT32, max_positions=512
)


def record(state: State = State.SERVING) -> PeerRecord:
    holding = Holding("tiny", "00", "float32", range(1, 3), 4, 32, 320, 512)
    return PeerRecord(PEER, b"", 1, 60, (1,), (HERE,), Role.TARGET, state, holding, Capacity(100, 400, 0.03, 0.01))


def stage(record: PeerRecord | None = None) -> Stage:
    return Stage(HERE, PEER, None, SAID, 0.02, record)  # type: ignore[arg-type]  # nobody is called


def test_a_peer_without_a_record() -> None:
    seen = PeerView.of(HERE, stage(), None)
    assert (seen.state, seen.layers, seen.dtype, seen.round_trip_seconds) == ("serving", (1, 3), "float32", 0.02)
    assert seen.tokens_per_second is seen.free_positions is seen.total_positions is None


def test_a_peer_with_a_record() -> None:
    seen = PeerView.of(HERE, stage(), record(State.DRAINING))
    assert (seen.state, seen.free_positions, seen.total_positions) == ("draining", 100, 400)
    assert seen.tokens_per_second == 25


def test_peers_that_do_not_answer() -> None:
    lost = PeerLost("it is gone")
    assert PeerView.of(HERE, lost, None).state == "unreachable"
    assert PeerView.of(HERE, Refused("another model"), record()).state == "refused"
    assert PeerView.of(HERE, Refused("it still loads"), record(State.JOINING)).state == "joining"
    assert PeerView.of(HERE, ProtocolError("it makes no sense"), record()).state == "refused"
    for is_suspected, state in ((False, "unreachable"), (True, "suspected")):
        absent = PeerView.of(HERE, lost, record(), is_suspected=is_suspected)
        assert (absent.state, absent.layers, absent.problem) == (state, (1, 3), "it is gone")


def test_only_who_serves_covers() -> None:
    serving, draining = (PeerView.of(HERE, stage(), record(state)) for state in (State.SERVING, State.DRAINING))
    assert coverage([serving, draining]) == [0, 1, 1, 0]
    assert coverage([draining]) == []
