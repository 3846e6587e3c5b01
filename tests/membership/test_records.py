"""Peer records on the wire: what is said arrives, and what no honest peer says is refused before it costs anything."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsd_core.errors import DsdError, ProtocolError, Refused
from dsd_core.membership.ids import HANDLE_BYTES, Handle, handle_of
from dsd_core.membership.record import Capacity, PeerRecord, Role, State
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.signed_record import DOMAIN, require_signature
from dsd_core.wire import records
from dsd_core.wire.records import record_from_wire, record_to_wire, signed_from_wire, signed_to_wire
from dsd_core.wire.v1 import peer_pb2
from tests.membership.conftest import HOLDING, record_of, signed_by

ALICE, BOB = Identity.ephemeral(), Identity.ephemeral()


@pytest.mark.parametrize(
    "record",
    [
        record_of(ALICE),
        record_of(ALICE, 2**64 - 1, role=Role.DRAFTER, state=State.JOINING, swarm=b"private", protocol_versions=(1, 2)),
        record_of(ALICE, round_trips={handle_of(BOB.peer_id): 0.25}, state=State.DRAINING),
        record_of(ALICE, addresses=(Address("alice.example.org", 4100), Address("::1", 1)), capacity=Capacity(0, 0)),
    ],
)
def test_a_record_arrives_as_it_was_signed(record: PeerRecord) -> None:
    said = record_to_wire(record)
    assert record_from_wire(said) == record
    assert record_from_wire(peer_pb2.PeerRecord.FromString(said.SerializeToString())) == record


def test_a_signed_record_is_passed_on_to_the_byte() -> None:
    signed = signed_by(ALICE)
    message = signed_to_wire(signed, 1.5)
    arrived = signed_from_wire(message)
    require_signature(arrived)
    assert arrived == signed
    assert message.age_millis == 1500
    assert signed_to_wire(arrived, 1.5) == message


def test_the_largest_record_is_not_too_large() -> None:
    far = Address("x" * 255, 65535)
    handles = [Handle(index.to_bytes(HANDLE_BYTES)) for index in range(16)]
    holding = replace(HOLDING, model="🙂" * 128, span=range(2**32 - 2, 2**32 - 1), num_layers=2**32 - 1)
    largest = signed_by(
        ALICE,
        2**64 - 1,
        swarm=b"s" * 64,
        ttl_seconds=86_400,
        protocol_versions=(2**32 - 1,) * 8,
        addresses=(far,) * 3,
        holding=replace(holding, hidden_size=2**32 - 1, vocab_size=2**32 - 1, max_positions=2**32 - 1),
        round_trips=dict.fromkeys(handles, 4000.0),
    )
    assert signed_from_wire(signed_to_wire(largest, 1e9)) == largest


def test_a_round_trip_is_found_by_peer() -> None:
    record = record_of(ALICE, round_trips={handle_of(BOB.peer_id): 0.25})
    assert record.round_trip_to(BOB.peer_id) == 0.25
    assert record.round_trip_to(ALICE.peer_id) is None


Change = Callable[[peer_pb2.PeerRecord], Any]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda said: setattr(said, "peer", b"\0" * 32), "not a peer id"),
        (lambda said: setattr(said, "peer", b"short"), "not a peer id"),
        (lambda said: setattr(said, "sequence", 0), "no sequence"),
        (lambda said: setattr(said, "ttl_seconds", 0), "lasts for ever"),
        (lambda said: setattr(said, "ttl_seconds", 86_401), "lasts for ever"),
        (lambda said: said.ClearField("protocol_versions"), "protocols"),
        (lambda said: said.protocol_versions.extend([1] * 8), "protocols"),
        (lambda said: said.ClearField("addresses"), "addresses"),
        (lambda said: said.addresses.extend(["127.0.0.1:1"] * 3), "addresses"),
        (lambda said: said.addresses.append("x" * 300 + ":1"), "addresses"),
        (lambda said: said.addresses.append("nowhere"), "not an address"),
        (lambda said: said.addresses.append("127.0.0.1:0"), "cannot be dialled"),
        (lambda said: said.addresses.append("0.0.0.0:4100"), "cannot be dialled"),
        (lambda said: setattr(said, "swarm", b"s" * 65), "swarm id"),
        (lambda said: setattr(said, "measured_peers", b"p" * 10), "round trips"),
        (lambda said: said.round_trip_micros.extend([1] * 17), "round trips"),
        (lambda said: (setattr(said, "measured_peers", b"p" * 20), said.round_trip_micros.extend([1, 2])), "twice"),
        (lambda said: setattr(said.holding, "model", "m" * 129), "characters"),
        (lambda said: setattr(said.holding, "model", "a\nb"), "printable"),
        (lambda said: setattr(said.holding, "manifest_hash", b"h" * 31), "manifest hash"),
        (lambda said: setattr(said.holding, "end_layer", 5), "cannot be"),
        (lambda said: setattr(said.holding, "first_layer", 3), "cannot be"),
        (lambda said: setattr(said.holding, "vocab_size", 0), "cannot be"),
        (lambda said: setattr(said.holding, "dtype", 0), "unknown"),
        (lambda said: said.ClearField("holding"), "characters|hash|unknown"),
        (lambda said: setattr(said.capacity, "free_positions", 201), "more positions free"),
        (lambda said: setattr(said.capacity, "frame_micros", float("nan")), "no time"),
        (lambda said: setattr(said.capacity, "node_micros", -1.0), "no time"),
        (lambda said: setattr(said.capacity, "node_micros", float("inf")), "no time"),
    ],
)
def test_what_no_honest_peer_says(change: Change, says: str) -> None:
    said = record_to_wire(record_of(ALICE))
    change(said)
    with pytest.raises(ProtocolError, match=says):
        record_from_wire(said)


@pytest.mark.parametrize(
    "change",
    [
        lambda said: setattr(said, "role", 9),
        lambda said: setattr(said, "state", 9),
        lambda said: setattr(said.holding, "dtype", 9),
    ],
)
def test_what_a_newer_release_may_say_is_its_own_refusal(change: Change) -> None:
    said = record_to_wire(record_of(ALICE))
    change(said)
    with pytest.raises(Refused, match="update DSD"):
        record_from_wire(said)


def test_an_oversized_record_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "record_from_wire", lambda said: pytest.fail("it was read"))
    with pytest.raises(ProtocolError, match="at most 2048 bytes"):
        signed_from_wire(peer_pb2.SignedRecord(record=b"\0" * 2049, signature=b"s" * 64))


@pytest.mark.parametrize("signature", [b"", b"s" * 63, b"s" * 65])
def test_a_signature_of_another_size(signature: bytes) -> None:
    with pytest.raises(ProtocolError, match="64 bytes"):
        signed_from_wire(peer_pb2.SignedRecord(record=signed_by(ALICE).content, signature=signature))


def test_nobody_signs_for_another() -> None:
    posed = replace(signed_by(ALICE), signature=signed_by(BOB).signature)
    with pytest.raises(ProtocolError, match="is not signed by that peer"):
        require_signature(posed)


def test_a_signature_for_another_purpose_is_worthless() -> None:
    signed = signed_by(ALICE)
    for domain in (b"dsd-join-v1", b"dsd-record-v2"):
        assert domain != DOMAIN
        with pytest.raises(ProtocolError, match="not signed"):
            require_signature(replace(signed, signature=ALICE.sign(domain, signed.content)))


def test_every_changed_bit_is_noticed() -> None:
    """Either it is no record any more, or it is not signed."""
    signed = signed_by(ALICE)
    for bit in range(0, len(signed.content) * 8, 7):
        content = bytearray(signed.content)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ProtocolError, Refused)):
            require_signature(signed_from_wire(peer_pb2.SignedRecord(record=bytes(content), signature=signed.signature)))


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300), st.binary(min_size=64, max_size=64))
def test_noise_is_an_error_of_ours(content: bytes, signature: bytes) -> None:
    with pytest.raises(DsdError):
        require_signature(signed_from_wire(peer_pb2.SignedRecord(record=content, signature=signature)))


def test_a_column_of_handles() -> None:
    peers = (ALICE.peer_id, BOB.peer_id)
    column = b"".join(map(handle_of, peers))
    assert len(column) == 2 * HANDLE_BYTES
    assert records.handles_from_wire(column) == tuple(map(handle_of, peers))
    with pytest.raises(ProtocolError, match="no multiple of 10"):
        records.handles_from_wire(column[:-1])
