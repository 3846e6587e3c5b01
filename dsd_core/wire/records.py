"""Between peer records on the wire and the core's type. Sizes and counts are looked at before anything is walked."""

import math

from google.protobuf.message import DecodeError

from dsd_core.errors import ProtocolError, Refused, UsageError
from dsd_core.membership.ids import HANDLE_BYTES, Handle
from dsd_core.membership.record import Capacity, Holding, PeerRecord, Role, SignedRecord, State
from dsd_core.network.address import Address
from dsd_core.network.identity import peer_id_of, public_bytes_of
from dsd_core.wire.hidden import DType, dtype_from_wire, dtype_to_wire
from dsd_core.wire.v1 import peer_pb2, stage_pb2

MAX_RECORD_BYTES = 2048
MAX_ADDRESSES = 3
MAX_ADDRESS_CHARACTERS = 261
MAX_VERSIONS = 8
MAX_ROUND_TRIPS = 16
MAX_MODEL_CHARACTERS = 128
MAX_SWARM_BYTES = 64
MAX_TTL_SECONDS = 86_400
HASH_BYTES = 32
SIGNATURE_BYTES = 64

_ROLE_TO_WIRE = {Role.TARGET: peer_pb2.ROLE_TARGET, Role.DRAFTER: peer_pb2.ROLE_DRAFTER}
_ROLE_FROM_WIRE = {number: role for role, number in _ROLE_TO_WIRE.items()}
_STATE_TO_WIRE = {
    State.JOINING: peer_pb2.STATE_JOINING,
    State.SERVING: peer_pb2.STATE_SERVING,
    State.DRAINING: peer_pb2.STATE_DRAINING,
}
_STATE_FROM_WIRE = {number: state for state, number in _STATE_TO_WIRE.items()}


def record_to_wire(record: PeerRecord) -> peer_pb2.PeerRecord:
    holding, capacity = record.holding, record.capacity
    return peer_pb2.PeerRecord(
        peer=public_bytes_of(record.peer),
        swarm=record.swarm,
        sequence=record.sequence,
        ttl_seconds=record.ttl_seconds,
        protocol_versions=record.protocol_versions,
        addresses=map(str, record.addresses),
        role=_ROLE_TO_WIRE[record.role],
        state=_STATE_TO_WIRE[record.state],
        holding=peer_pb2.Holding(
            model=holding.model[:MAX_MODEL_CHARACTERS],
            manifest_hash=bytes.fromhex(holding.manifest_hash),
            dtype=dtype_to_wire(DType(holding.dtype)),
            first_layer=holding.span.start,
            end_layer=holding.span.stop,
            num_layers=holding.num_layers,
            hidden_size=holding.hidden_size,
            vocab_size=holding.vocab_size,
            max_positions=holding.max_positions,
        ),
        capacity=peer_pb2.Capacity(
            free_positions=capacity.free_positions,
            total_positions=capacity.total_positions,
            frame_micros=capacity.frame_seconds * 1e6,
            node_micros=capacity.node_seconds * 1e6,
        ),
        measured_peers=b"".join(record.round_trips),
        round_trip_micros=[min(int(seconds * 1e6), 2**32 - 1) for seconds in record.round_trips.values()],
    )


def signed_from_wire(message: peer_pb2.SignedRecord) -> SignedRecord:
    """Raises as `record_from_wire` does. The signature is not looked at: it costs the most."""
    if len(message.record) > MAX_RECORD_BYTES:
        raise ProtocolError(f"a peer record has at most {MAX_RECORD_BYTES} bytes, not {len(message.record)}")
    if len(message.signature) != SIGNATURE_BYTES:
        raise ProtocolError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(message.signature)}")
    try:
        said = peer_pb2.PeerRecord.FromString(message.record)
    except DecodeError:
        raise ProtocolError("a peer record is no message of this protocol") from None
    return SignedRecord(record_from_wire(said), message.record, message.signature)


def signed_to_wire(signed: SignedRecord, age_seconds: float) -> peer_pb2.SignedRecord:
    age_millis = min(int(age_seconds * 1e3), 2**32 - 1)
    return peer_pb2.SignedRecord(record=signed.content, signature=signed.signature, age_millis=age_millis)


def record_from_wire(said: peer_pb2.PeerRecord) -> PeerRecord:
    """Raises ProtocolError for what no peer says, Refused for what only a newer release may."""
    _require_counts(said)
    _require_known(said)
    try:
        peer = peer_id_of(said.peer)
        addresses = tuple(map(Address.parse, said.addresses))
    except UsageError as error:
        raise ProtocolError(f"a peer record is malformed: {error}") from None
    if any(address.port == 0 or address.is_unspecified for address in addresses):
        raise ProtocolError("a peer record names an address that cannot be dialled")
    if not (said.sequence and 1 <= said.ttl_seconds <= MAX_TTL_SECONDS and all(said.protocol_versions)):
        raise ProtocolError("a peer record has no sequence, or lasts for ever, or names no protocol")
    return PeerRecord(
        peer=peer,
        swarm=said.swarm,
        sequence=said.sequence,
        ttl_seconds=said.ttl_seconds,
        protocol_versions=tuple(said.protocol_versions),
        addresses=addresses,
        role=_ROLE_FROM_WIRE[said.role],
        state=_STATE_FROM_WIRE[said.state],
        holding=_holding(said.holding),
        capacity=_capacity(said.capacity),
        round_trips=_round_trips(said),
    )


def handles_from_wire(column: bytes) -> tuple[Handle, ...]:
    """Raises ProtocolError for a column that is no whole number of handles, or holds one twice."""
    if len(column) % HANDLE_BYTES:
        raise ProtocolError(f"a column of peers has {len(column)} bytes, no multiple of {HANDLE_BYTES}")
    cuts = range(0, len(column), HANDLE_BYTES)
    handles = tuple(Handle(column[cut : cut + HANDLE_BYTES]) for cut in cuts)
    if len(set(handles)) < len(handles):
        raise ProtocolError("a column of peers names one twice")
    return handles


def _require_counts(said: peer_pb2.PeerRecord) -> None:
    if not 1 <= len(said.addresses) <= MAX_ADDRESSES or max(map(len, said.addresses)) > MAX_ADDRESS_CHARACTERS:
        raise ProtocolError(f"a peer record names 1 to {MAX_ADDRESSES} addresses, none of them endless")
    if not 1 <= len(said.protocol_versions) <= MAX_VERSIONS:
        raise ProtocolError(f"a peer record names 1 to {MAX_VERSIONS} protocols, not {len(said.protocol_versions)}")
    if len(said.swarm) > MAX_SWARM_BYTES:
        raise ProtocolError(f"a swarm id has at most {MAX_SWARM_BYTES} bytes, not {len(said.swarm)}")
    measured = len(said.round_trip_micros)
    if measured > MAX_ROUND_TRIPS or len(said.measured_peers) != measured * HANDLE_BYTES:
        raise ProtocolError(f"a peer record has at most {MAX_ROUND_TRIPS} round trips, each with its peer")


def _require_known(said: peer_pb2.PeerRecord) -> None:
    known = said.role in _ROLE_FROM_WIRE and said.state in _STATE_FROM_WIRE
    if not known or said.holding.dtype not in stage_pb2.DataType.values():
        raise Refused("a peer record has a role, a state or a type that this release does not know; update DSD")


def _holding(said: peer_pb2.Holding) -> Holding:
    if len(said.model) > MAX_MODEL_CHARACTERS or not said.model.isprintable():
        raise ProtocolError(f"a model's name has at most {MAX_MODEL_CHARACTERS} characters, all of them printable")
    if len(said.manifest_hash) != HASH_BYTES:
        raise ProtocolError(f"a manifest hash has {HASH_BYTES} bytes, not {len(said.manifest_hash)}")
    has_layers = said.first_layer < said.end_layer <= said.num_layers
    if not (has_layers and said.hidden_size and said.vocab_size and said.max_positions):
        raise ProtocolError("a peer record describes a span that cannot be")
    return Holding(
        model=said.model,
        manifest_hash=said.manifest_hash.hex(),
        dtype=dtype_from_wire(said.dtype).value,
        span=range(said.first_layer, said.end_layer),
        num_layers=said.num_layers,
        hidden_size=said.hidden_size,
        vocab_size=said.vocab_size,
        max_positions=said.max_positions,
    )


def _capacity(said: peer_pb2.Capacity) -> Capacity:
    if said.free_positions > said.total_positions:
        raise ProtocolError("a peer record has more positions free than there are")
    if not (0 <= said.frame_micros < math.inf and 0 <= said.node_micros < math.inf):
        raise ProtocolError("a peer record has a stage that takes no time that can be")
    return Capacity(said.free_positions, said.total_positions, said.frame_micros / 1e6, said.node_micros / 1e6)


def _round_trips(said: peer_pb2.PeerRecord) -> dict[Handle, float]:
    return dict(zip(handles_from_wire(said.measured_peers), (micros / 1e6 for micros in said.round_trip_micros), strict=True))
