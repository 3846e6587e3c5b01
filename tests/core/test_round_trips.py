"""How far peers are."""

from dsd_core.decoding.chains.round_trips import REMEMBERED, RoundTrips


def measured(*seconds: float) -> float:
    trips = RoundTrips[str]()
    for one in seconds:
        trips.add("peer", one)
    return trips.seconds()["peer"]


def test_a_busy_moment_does_not_make_a_peer_far() -> None:
    assert measured(0.5, 0.02, 0.3) == 0.02


def test_a_link_that_became_longer_is_soon_known_to_be() -> None:
    assert measured(0.02, *[0.1] * REMEMBERED) == 0.1


def test_a_peer_that_never_answered_is_not_listed() -> None:
    assert RoundTrips[str]().seconds() == {}


def test_a_peer_can_be_forgotten() -> None:
    trips = RoundTrips[str]()
    trips.add("peer", 0.1)
    trips.forget("peer")
    trips.forget("stranger")
    assert trips.seconds() == {}
