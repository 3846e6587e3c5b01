"""What a swarm's peers say of themselves, as one of them passes it on."""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class PeerList:
    """Whom a peer knows of."""

    alive: tuple[PeerRecord, ...] = ()
    suspected: tuple[PeerRecord, ...] = ()
    """Who answers neither it nor others. That is hearsay: what such a peer answers us counts for more."""

    def __bool__(self) -> bool:
        return bool(self.alive)

    def of(self, wanted: Callable[[PeerRecord], bool]) -> "PeerList":
        return PeerList(tuple(filter(wanted, self.alive)), tuple(filter(wanted, self.suspected)))


async def list_stages(channel: grpc.aio.Channel, manifest_hash: str, swarm: bytes) -> PeerList:
    """The stages of a model that the peer behind `channel` knows of, with those that load or leave. Raises DsdError.

    That a record is signed is checked here, that it is true is not: `require_true` compares it with what the stage says itself.
    """
    peers = await _list(channel, bytes.fromhex(manifest_hash), swarm)
    return peers.of(lambda record: record.role is Role.TARGET and record.holding.manifest_hash == manifest_hash)


async def list_drafters(channel: grpc.aio.Channel, swarm: bytes) -> list[PeerRecord]:
    """Some of the drafters that the peer behind `channel` knows of, whatever model they draft with. Raises DsdError."""
    peers = await _list(channel, b"", swarm)
    drafters = [record for record in peers.alive if record.role is Role.DRAFTER and record.state is State.SERVING]
    return random.sample(drafters, min(len(drafters), MAX_ALIKE))


async def _list(channel: grpc.aio.Channel, manifest_hash: bytes, swarm: bytes) -> PeerList:
    request = peer_pb2.ListPeersRequest(manifest_hash=manifest_hash)
    try:
        answer = await peer_stub(channel).ListPeers(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as failure:
        raise error_of(failure, "a peer that was asked for others") from None
    peers = await asyncio.to_thread(_signed_peers, answer)
    return peers.of(lambda record: record.swarm == swarm)


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


def _signed_peers(answer: peer_pb2.ListPeersResponse) -> PeerList:
    return PeerList(tuple(_signed_records(answer.records)), tuple(_signed_records(answer.suspected)))


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
