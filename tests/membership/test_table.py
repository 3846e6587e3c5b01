"""What a table takes, and what it never takes: old, repeated, contradictory, expired records, and those of the dead."""

import random
from dataclasses import replace

import pytest

from dsd_core.errors import DsdError, OutOfCapacity, ProtocolError, Refused
from dsd_core.membership import table as table_module
from dsd_core.membership.ids import Handle, handle_of
from dsd_core.membership.record import SignedRecord
from dsd_core.membership.table import MOVE_SECONDS, Table
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.signed_record import require_signature
from tests.membership.conftest import signed_by

ALICE, BOB, MALLORY = (Identity.ephemeral() for _ in range(3))
HERE, THERE = (Address("127.0.0.1", 4100),), (Address("127.0.0.2", 4100),)


def admit(table: Table, signed: SignedRecord, now: float = 0.0) -> None:
    table.admit(signed, 0.0, now)


def test_the_newest_record_is_held() -> None:
    table = Table()
    admit(table, signed_by(ALICE, 1))
    admit(table, signed_by(ALICE, 5))
    admit(table, signed_by(BOB, 2))
    assert {member.record.peer: member.sequence for _, member in table.items()} == {ALICE.peer_id: 5, BOB.peer_id: 2}


@pytest.mark.parametrize(("sequence", "says"), [(1, "is old"), (4, "is old"), (5, "is known")])
def test_old_and_repeated_records(sequence: int, says: str) -> None:
    table = Table()
    admit(table, signed_by(ALICE, 5))
    with pytest.raises(Refused, match=says):
        admit(table, signed_by(ALICE, sequence))


def test_two_records_of_one_sequence() -> None:
    table = Table()
    admit(table, signed_by(ALICE, 5))
    with pytest.raises(Refused, match="two things"):
        admit(table, signed_by(ALICE, 5, addresses=THERE))
    assert table[handle_of(ALICE.peer_id)].record.addresses == HERE


def test_a_peer_may_move_but_not_live_at_two_addresses() -> None:
    table = Table()
    admit(table, signed_by(ALICE, 1, addresses=HERE))
    admit(table, signed_by(ALICE, 2, addresses=THERE), now=1.0)
    admit(table, signed_by(ALICE, 3, addresses=THERE), now=2.0)
    with pytest.raises(Refused, match="lives at two addresses"):
        admit(table, signed_by(ALICE, 4, addresses=HERE), now=3.0)
    admit(table, signed_by(BOB, 1, addresses=HERE), now=3.0)
    admit(table, signed_by(ALICE, 5, addresses=HERE), now=1.0 + MOVE_SECONDS)


def test_another_swarm() -> None:
    with pytest.raises(Refused, match="another swarm"):
        admit(Table(b"ours"), signed_by(ALICE, swarm=b"theirs"))
    with pytest.raises(Refused, match="another swarm"):
        admit(Table(), signed_by(ALICE, swarm=b"theirs"))


@pytest.mark.parametrize("is_dead", [True, False])
def test_who_is_gone_comes_back_by_a_newer_record_alone(is_dead: bool) -> None:
    table = Table()
    admit(table, signed_by(ALICE, 5))
    table.remove(handle_of(ALICE.peer_id), is_dead=is_dead)
    for sequence in (1, 5):
        with pytest.raises(Refused, match="only a newer one"):
            admit(table, signed_by(ALICE, sequence))
    admit(table, signed_by(ALICE, 6))
    assert table.gone(handle_of(ALICE.peer_id)) is None


def test_a_full_table_keeps_those_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_MEMBERS", 1)
    table = Table()
    admit(table, signed_by(ALICE, 1))
    with pytest.raises(OutOfCapacity):
        admit(table, signed_by(BOB, 1))
    admit(table, signed_by(ALICE, 2))


def test_the_memory_of_the_gone_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_GONE", 1)
    table = Table()
    for identity in (ALICE, BOB):
        admit(table, signed_by(identity, 1))
        table.remove(handle_of(identity.peer_id), is_dead=True)
    assert table.gone(handle_of(ALICE.peer_id)) is None
    assert table.gone(handle_of(BOB.peer_id)) is not None


def test_slices_leave_no_gap() -> None:
    table = Table()
    for _ in range(10):
        admit(table, signed_by(Identity.ephemeral()))
    found: list[Handle] = []
    ends = [b""]
    for start in range(0, 10, 4):
        first, end, handles = table.slice(start, 4)
        assert first == ends[-1]
        assert handles == table.between(first, end)
        found += handles
        ends.append(end)
    assert ends[-1] == b""
    assert found == sorted(handle for handle, _ in table.items())


def test_ten_thousand_records_in_any_order_and_not_one_is_believed_that_must_not_be() -> None:
    """S4: old, forged, contradictory and expired ones among good ones, as they come."""
    chance = random.Random(4)
    honest = {identity.peer_id: [signed_by(identity, sequence) for sequence in range(1, 40)] for identity in (ALICE, BOB)}
    posed = [replace(signed, signature=MALLORY.sign(b"dsd-record-v1", signed.content)) for signed in honest[ALICE.peer_id]]
    twisted = [signed_by(BOB, sequence, swarm=b"other") for sequence in range(1, 40)]
    pool = [*honest[ALICE.peer_id], *honest[BOB.peer_id], *posed, *twisted]
    table, highest = Table(), {ALICE.peer_id: 0, BOB.peer_id: 0}
    refused: dict[type[DsdError], int] = {}
    for now in range(10_000):
        signed = chance.choice(pool)
        peer = signed.record.peer
        try:
            table.check(signed, float(now))
            require_signature(signed)
            admit(table, signed, float(now))
        except (Refused, ProtocolError) as error:
            refused[type(error)] = refused.get(type(error), 0) + 1
        else:
            assert signed in honest[peer]
            assert signed.record.sequence > highest[peer]
            highest[peer] = signed.record.sequence
        if chance.random() < 0.01 and table.get(handle_of(peer)):
            table.remove(handle_of(peer), is_dead=chance.random() < 0.5)
    assert set(highest.values()) == {39}
    assert refused[Refused] > 9_000
    assert refused[ProtocolError] > 0
