"""What a node says of itself."""

from dataclasses import dataclass

from dsd_core.membership.record import Capacity, Holding, Role, State
from dsd_core.model import tensors
from dsd_core.model.source import ModelSource
from dsd_core.network.address import Address
from dsd_core.wire.records import MAX_MODEL_CHARACTERS
from dsd_node.engine import Engine
from dsd_node.quotas import Quotas


@dataclass(frozen=True, slots=True)
class Statement:
    """At the moment; the rest of a record is who says it, and when."""

    addresses: tuple[Address, ...]
    role: Role
    state: State
    holding: Holding
    capacity: Capacity


def target_statement(
    addresses: tuple[Address, ...], state: State, source: ModelSource, engine: Engine, quotas: Quotas
) -> Statement:
    """Of a node that serves a span."""
    return Statement(addresses, Role.TARGET, state, _holding(source, engine), _capacity(engine, quotas))


def _holding(source: ModelSource, engine: Engine) -> Holding:
    span = engine.span
    return Holding(
        model="".join(filter(str.isprintable, source.name))[:MAX_MODEL_CHARACTERS],
        manifest_hash=source.manifest_hash,
        dtype=tensors.wire_dtype(span.dtype).value,
        span=span.layers,
        num_layers=source.num_layers,
        hidden_size=span.hidden_size,
        vocab_size=span.vocab_size,
        max_positions=source.max_positions,
    )


def _capacity(engine: Engine, quotas: Quotas) -> Capacity:
    position_bytes = engine.span.kv_bytes(1)
    return Capacity(
        free_positions=quotas.free_bytes // position_bytes,
        total_positions=quotas.total_bytes // position_bytes,
        frame_seconds=engine.times.at(0),
        node_seconds=engine.times.slope,
    )
