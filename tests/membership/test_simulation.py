"""Swarms in virtual time: how fast news travel, what that costs, and who dies."""

import pytest

from dsd_core.membership.events import Gossip, Held, Introduced, Passed
from dsd_core.membership.ids import HANDLE_BYTES, Handle
from dsd_core.wire.gossip import request_to_wire, response_to_wire
from tests.membership.conftest import signed_by
from tests.membership.simulation import SimulatedSwarm, size_of
from tests.membership.test_table import ALICE, BOB


def test_news_reach_a_thousand_peers_within_ten_rounds_and_traffic_is_small() -> None:
    swarm = SimulatedSwarm(1000)
    swarm.run(10)
    swarm.bytes.clear()
    peer = next(iter(swarm.peers))
    swarm.publish(peer)
    swarm.run(10)
    assert swarm.know(peer) >= 990
    swarm.run(5)
    sent_and_received = sum(swarm.bytes.values()) / len(swarm.peers) / (15 * swarm.config.round_seconds)
    assert sent_and_received < 4000
    assert swarm.lost == []


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_nobody_living_is_declared_dead(loss: float) -> None:
    """Of a hundred peers, each tried once a round, for a hundred rounds: longer than any window of suspicion."""
    swarm = SimulatedSwarm(100, loss=loss)
    swarm.run(100)
    assert swarm.lost == []
    assert (swarm.suspicions > 0) == (loss > 0)


def test_the_dead_are_found_and_stay_dead_though_some_never_heard() -> None:
    swarm = SimulatedSwarm(100)
    dead = next(iter(swarm.peers))
    swarm.down.add(dead)
    swarm.run(60)
    mourners = {peer for peer, lost in swarm.lost if lost.peer == dead and lost.is_dead}
    assert mourners == set(swarm.peers) - {dead}
    assert len(swarm.lost) == 99


def test_who_comes_back_is_believed() -> None:
    swarm = SimulatedSwarm(30)
    dead = next(iter(swarm.peers))
    swarm.down.add(dead)
    swarm.run(60)
    assert swarm.know(dead) == 1  # itself
    swarm.down.clear()
    swarm.publish(dead)
    swarm.run(30)
    assert swarm.know(dead) == 30


def test_a_swarm_that_was_cut_in_two_is_one_again() -> None:
    swarm = SimulatedSwarm(20)
    left = set(list(swarm.peers)[:10])
    swarm.cut = left
    swarm.run(100)
    assert {len(membership.table) for membership in swarm.peers.values()} == {10}
    swarm.cut = set()
    swarm.run(60)
    assert {len(membership.table) for membership in swarm.peers.values()} == {20}


def test_strangers_that_know_one_seed_find_each_other() -> None:
    swarm = SimulatedSwarm(50, acquainted=False)
    seed, *others = swarm.peers
    for other in others:
        swarm.introduce(other, seed, Introduced)
    swarm.run(10)
    assert {len(membership.table) for membership in swarm.peers.values()} == {50}


def test_a_peer_that_missed_the_news_is_told_in_the_end() -> None:
    """The news is old when it comes back; the slices find what it lacks."""
    swarm = SimulatedSwarm(40)
    away, known, *_ = swarm.peers
    swarm.down.add(away)
    swarm.publish(known)
    swarm.run(9)
    swarm.down.clear()
    swarm.run(30)
    assert swarm.know(known) == 40


NOW = 1_800_000_000_000
"""Sequences are milliseconds."""


def handles(first: int, count: int) -> list[Handle]:
    return [Handle(index.to_bytes(HANDLE_BYTES)) for index in range(first, first + count)]


@pytest.mark.parametrize(
    "gossip",
    [
        Gossip(held=Held(dict.fromkeys(handles(1, 25), NOW), *handles(1, 2)), suspected=dict.fromkeys(handles(1, 2), NOW)),
        Gossip(records=(Passed(signed_by(ALICE), 10.0), Passed(signed_by(BOB), 0.5)), wanted=tuple(handles(1, 3))),
    ],
)
def test_the_size_of_a_message(gossip: Gossip) -> None:
    message = request_to_wire(gossip) if gossip.held else response_to_wire(gossip)
    assert message.ByteSize() == pytest.approx(size_of(gossip), rel=0.05)
