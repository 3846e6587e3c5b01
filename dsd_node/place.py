"""What a node is to serve: the model that its swarm serves, and of that the layers which the swarm lacks."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from dsd_core import embedded
from dsd_core.decoding.placement import Machine, ModelSize, binding, choose_span
from dsd_core.errors import InvalidWeights, ModelNotFound, UnsupportedModel
from dsd_core.membership.ids import PeerId
from dsd_core.membership.needs import WantedModel, claims, layer_seconds, wanted_model
from dsd_core.membership.record import PeerRecord
from dsd_core.model.memory import usable_bytes
from dsd_core.model.size import model_size
from dsd_core.model.source import ModelSource, resolve
from dsd_core.model.span import choose_device, choose_dtype

SESSIONS = 4
SESSION_POSITIONS = 4096
"""A span is chosen so that beside its weights there is memory for so many sessions of so many positions."""
TRIED_NAMES = 3
"""Of those that strangers call a model; each may cost a question to the hub."""


@dataclass(frozen=True, slots=True)
class Place:
    """A model, and what this machine has for it."""

    source: ModelSource
    device: torch.device
    dtype: torch.dtype
    size: ModelSize
    memory: int
    """Bytes."""

    @property
    def all_layers(self) -> range:
        return range(self.source.num_layers)

    def layers(
        self, peer: PeerId, records: Iterable[PeerRecord] = (), elders: frozenset[PeerId] = frozenset()
    ) -> range:
        """The layers that the swarm of these records needs of us, `peer`. Raises OutOfCapacity if no layer fits."""
        of_it = [record for record in records if record.holding.manifest_hash == self.source.manifest_hash]
        held = claims(of_it, self.source.manifest_hash, self.source.num_layers)
        machine = Machine(peer, self.memory, layer_seconds(of_it))
        return choose_span(machine, self.size, binding(held, peer, frozenset(elders)))


def find_place(model: str | None, device: str, dtype: str, memory: int | None, records: Iterable[PeerRecord]) -> Place:
    """`model` of None is the one that the swarm serves, or the embedded one; `memory` of None is what is free, with headroom.

    Downloads headers, no weights. Raises ModelNotFound, UnsupportedModel, InvalidWeights or UsageError.
    """
    wanted = wanted_model(records)
    source = resolve(model) if model else _find_model(wanted)
    chosen_device = choose_device(device)
    joins = wanted is not None and wanted.manifest_hash == source.manifest_hash
    chosen_dtype = choose_dtype(wanted.dtype if wanted and joins and dtype == "auto" else dtype, chosen_device, source)
    size = model_size(source, chosen_dtype, SESSIONS * min(source.max_positions, SESSION_POSITIONS))
    usable = usable_bytes(chosen_device) if memory is None else memory
    enough = size.span_bytes(range(source.num_layers))
    return Place(source, chosen_device, chosen_dtype, size, enough if usable is None else usable)


def _find_model(wanted: WantedModel | None) -> ModelSource:
    """By its manifest: peers may call one model by many names, and a name from a stranger proves nothing."""
    embedded_target = resolve(str(embedded.TARGET))
    if wanted is None or wanted.manifest_hash == embedded_target.manifest_hash:
        return embedded_target
    for name in wanted.names[:TRIED_NAMES]:
        try:
            source = resolve(name)
        except (ModelNotFound, UnsupportedModel, InvalidWeights):
            continue
        if source.manifest_hash == wanted.manifest_hash:
            return source
    raise ModelNotFound(f"the swarm serves {wanted.names[0]!r}, which is not to be had here; name your copy with --model")
