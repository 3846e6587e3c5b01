"""A peer's signature under what it says about itself."""

from dsd_core.errors import ProtocolError
from dsd_core.membership.record import PeerRecord, SignedRecord
from dsd_core.network.identity import Identity, verify
from dsd_core.wire.records import MAX_RECORD_BYTES, record_to_wire

DOMAIN = b"dsd-record-v1"


def sign(identity: Identity, record: PeerRecord) -> SignedRecord:
    """`record` must be of `identity` itself."""
    assert record.peer == identity.peer_id, "a record is about its signer"
    content = record_to_wire(record).SerializeToString(deterministic=True)
    assert len(content) <= MAX_RECORD_BYTES, "the limits on each part keep the whole below"
    return SignedRecord(record, content, identity.sign(DOMAIN, content))


def require_signature(signed: SignedRecord) -> None:
    """Raises ProtocolError unless the record's own peer signed it. Some 130 µs."""
    if not verify(signed.record.peer, DOMAIN, signed.content, signed.signature):
        raise ProtocolError(f"a record of {signed.record.peer} is not signed by that peer; do not trust who sent it")
