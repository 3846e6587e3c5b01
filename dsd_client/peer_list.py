"""What a swarm's peers say of themselves, as one of them passes it on."""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

import grpc.aio

from dsd_core.errors import DsdError, ProtocolError
from dsd_core.membership.record import PeerRecord, Role, State
from dsd_core.network.signed_record import require_signature
from dsd_core.network.status import error_of
from dsd_core.network.stubs import peer_stub
from dsd_core.wire.records import signed_from_wire
from dsd_core.wire.v1 import peer_pb2, stage_pb2

log = logging.getLogger(__name__)

CALL_SECONDS = 5.0
MAX_ALIKE = 8
"""Of peers that hold the same span, so many are looked at."""


async def list_peers(channel: grpc.aio.Channel, manifest_hash: str, swarm: bytes) -> list[PeerRecord]:
    """The stages of a model that the peer behind `channel` knows of. Raises DsdError.

    That a record is signed is checked here, that it is true is not: `require_true` compares it with what the stage says itself.
    """
    records = await _list(channel, bytes.fromhex(manifest_hash), swarm)
    return [record for record in records if _serves(record, manifest_hash)]


async def list_holders(channel: grpc.aio.Channel, manifest_hash: str, swarm: bytes) -> list[PeerRecord]:
    """As `list_peers`, with those that load or leave. Raises DsdError."""
    records = await _list(channel, bytes.fromhex(manifest_hash), swarm)
    return [record for record in records if record.role is Role.TARGET]


async def list_drafters(channel: grpc.aio.Channel, swarm: bytes) -> list[PeerRecord]:
    """Some of the drafters that the peer behind `channel` knows of, whatever model they draft with. Raises DsdError."""
    records = await _list(channel, b"", swarm)
    drafters = [record for record in records if record.role is Role.DRAFTER and record.state is State.SERVING]
    return random.sample(drafters, min(len(drafters), MAX_ALIKE))


async def _list(channel: grpc.aio.Channel, manifest_hash: bytes, swarm: bytes) -> list[PeerRecord]:
    request = peer_pb2.ListPeersRequest(manifest_hash=manifest_hash)
    try:
        answer = await peer_stub(channel).ListPeers(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as failure:
        raise error_of(failure, "a peer that was asked for others") from None
    records = await asyncio.to_thread(_signed_records, answer.records)
    return [record for record in records if record.swarm == swarm]


def few_of_each_span(records: Iterable[PeerRecord]) -> list[PeerRecord]:
    """A swarm may be larger than anybody wants to look at: of those that hold the same, some, drawn by lot."""
    alike: defaultdict[range, list[PeerRecord]] = defaultdict(list)
    for record in records:
        alike[record.holding.span].append(record)
    return [record for same in alike.values() for record in random.sample(same, min(len(same), MAX_ALIKE))]


def require_true(record: PeerRecord, said: stage_pb2.DescribeResponse) -> None:
    """Raises ProtocolError unless the stage describes itself as its record does."""
    holding = record.holding
    stated = (holding.manifest_hash, holding.span, holding.num_layers, holding.hidden_size, holding.vocab_size)
    span = range(said.first_layer, said.end_layer)
    if stated != (said.manifest_hash.hex(), span, said.num_layers, said.hidden_size, said.vocab_size):
        raise ProtocolError(f"the peer at {record.addresses[0]} is not what its record says; it is left out")


def _signed_records(messages: Sequence[peer_pb2.SignedRecord]) -> list[PeerRecord]:
    records = []
    for message in messages:
        try:
            signed = signed_from_wire(message)
            require_signature(signed)
        except DsdError as error:
            log.warning("a record is left out: %s", error)
        else:
            records.append(signed.record)
    return records


def _serves(record: PeerRecord, manifest_hash: str) -> bool:
    return record.role is Role.TARGET and record.state is State.SERVING and record.holding.manifest_hash == manifest_hash
