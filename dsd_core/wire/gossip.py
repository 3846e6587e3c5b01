"""Between the messages of an exchange and what the core makes of them. Counts are looked at before anything is walked."""

from collections.abc import Iterable, Mapping, Sequence

from dsd_core.errors import ProtocolError, Refused
from dsd_core.membership.events import Gossip, Held, Passed
from dsd_core.membership.ids import HANDLE_BYTES, Handle
from dsd_core.membership.membership import MAX_RECORDS, MAX_SUSPECTED
from dsd_core.membership.table import MAX_MEMBERS
from dsd_core.wire.records import handles_from_wire, signed_from_wire, signed_to_wire
from dsd_core.wire.v1 import peer_pb2


def request_to_wire(gossip: Gossip) -> peer_pb2.ExchangeRequest:
    message = peer_pb2.ExchangeRequest(
        suspected=_digest_to_wire(gossip.suspected), records=[_passed_to_wire(passed) for passed in gossip.records]
    )
    if gossip.held is not None:
        message.held.CopyFrom(_digest_to_wire(gossip.held.sequences))
        message.first, message.end = gossip.held.first, gossip.held.end
    return message


def request_from_wire(message: peer_pb2.ExchangeRequest) -> Gossip:
    """Raises ProtocolError. Nobody's signature is looked at."""
    return Gossip(
        held=_held(message) if message.HasField("held") else None,
        records=_records(message.records),
        suspected=_digest_from_wire(message.suspected, MAX_SUSPECTED + MAX_RECORDS),
    )


def response_to_wire(gossip: Gossip) -> peer_pb2.ExchangeResponse:
    return peer_pb2.ExchangeResponse(
        records=[_passed_to_wire(passed) for passed in gossip.records],
        wanted=b"".join(gossip.wanted),
        suspected=_digest_to_wire(gossip.suspected),
    )


def response_from_wire(message: peer_pb2.ExchangeResponse) -> Gossip:
    """Raises ProtocolError. Nobody's signature is looked at."""
    if len(message.wanted) > MAX_RECORDS * HANDLE_BYTES:
        raise ProtocolError(f"an answer asks for at most {MAX_RECORDS} records")
    return Gossip(
        records=_records(message.records),
        wanted=handles_from_wire(message.wanted),
        suspected=_digest_from_wire(message.suspected, MAX_SUSPECTED + MAX_RECORDS),
    )


def _held(message: peer_pb2.ExchangeRequest) -> Held:
    if len(message.first) not in (0, HANDLE_BYTES) or len(message.end) not in (0, HANDLE_BYTES):
        raise ProtocolError(f"a range of peers has ends of {HANDLE_BYTES} bytes")
    return Held(_digest_from_wire(message.held, MAX_MEMBERS), Handle(message.first), Handle(message.end))


def _records(messages: Sequence[peer_pb2.SignedRecord]) -> tuple[Passed, ...]:
    if len(messages) > MAX_RECORDS:
        raise ProtocolError(f"a message brings at most {MAX_RECORDS} records, not {len(messages)}")
    return tuple(_known(messages))


def _known(messages: Iterable[peer_pb2.SignedRecord]) -> Iterable[Passed]:
    for message in messages:
        try:
            yield Passed(signed_from_wire(message), message.age_millis / 1e3)
        except Refused:  # Of a newer release: whoever passes it on is not to blame, and others may make sense of it.
            continue


def _digest_to_wire(sequences: Mapping[Handle, int]) -> peer_pb2.Digest:
    return peer_pb2.Digest(peers=b"".join(sequences), sequences=sequences.values())


def _digest_from_wire(message: peer_pb2.Digest, limit: int) -> dict[Handle, int]:
    rows = len(message.sequences)
    if rows > limit or len(message.peers) != rows * HANDLE_BYTES:
        raise ProtocolError(f"a digest has at most {limit} rows, and columns of one length")
    return dict(zip(handles_from_wire(message.peers), message.sequences, strict=True))


def _passed_to_wire(passed: Passed) -> peer_pb2.SignedRecord:
    return signed_to_wire(passed.signed, passed.age_seconds)
