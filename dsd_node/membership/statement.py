"""What a node says of itself."""

from dataclasses import dataclass

import torch

from dsd_core.membership.record import Capacity, Holding, Role, State
from dsd_core.model import tensors
from dsd_core.model.source import ModelSource
from dsd_core.network.address import Address
from dsd_core.wire.records import MAX_MODEL_CHARACTERS
from dsd_node.engine import Engine
from dsd_node.membership.place import Place
from dsd_node.quotas import Quotas


@dataclass(frozen=True, slots=True)
class Statement:
    """At the moment; the rest of a record is who says it, and when."""

    addresses: tuple[Address, ...]
    role: Role
    state: State
    holding: Holding
    capacity: Capacity


def serving_statement(
    role: Role, addresses: tuple[Address, ...], state: State, source: ModelSource, engine: Engine, quotas: Quotas
) -> Statement:
    """Of a node that serves a span, which is a whole model where it drafts."""
    span = engine.span
    holding = _holding(source, span.layers, span.dtype)
    return Statement(addresses, role, state, holding, _capacity(engine, quotas))


def joining_statement(role: Role, addresses: tuple[Address, ...], place: Place, layers: range) -> Statement:
    """Of a node that is about to load these layers."""
    holding = _holding(place.source, layers, place.dtype)
    return Statement(addresses, role, State.JOINING, holding, Capacity(0, 0))


def _holding(source: ModelSource, layers: range, dtype: torch.dtype) -> Holding:
    return Holding(
        model="".join(filter(str.isprintable, source.name))[:MAX_MODEL_CHARACTERS],
        manifest_hash=source.manifest_hash,
        dtype=tensors.wire_dtype(dtype).value,
        span=layers,
        num_layers=source.num_layers,
        hidden_size=source.hidden_size,
        vocab_size=source.vocab_size,
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
