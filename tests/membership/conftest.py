"""Peers that sign what they say about themselves, honest and not."""

from dataclasses import replace
from typing import Any

from dsd_core.membership.record import Capacity, Holding, PeerRecord, Role, SignedRecord, State
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.signed_record import sign

HOLDING = Holding("target", "ab" * 32, "float32", range(1, 3), 4, 32, 320, 512)


def record_of(identity: Identity, sequence: int = 1, **changes: Any) -> PeerRecord:
    record = PeerRecord(
        peer=identity.peer_id,
        swarm=b"",
        sequence=sequence,
        ttl_seconds=120,
        protocol_versions=(1,),
        addresses=(Address("127.0.0.1", 4100),),
        role=Role.TARGET,
        state=State.SERVING,
        holding=HOLDING,
        capacity=Capacity(100, 200, 0.25, 0.125),
    )
    return replace(record, **changes)


def signed_by(identity: Identity, sequence: int = 1, **changes: Any) -> SignedRecord:
    return sign(identity, record_of(identity, sequence, **changes))
