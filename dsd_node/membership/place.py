"""What a node is to serve: the model that its swarm serves, and of that the layers which the swarm lacks."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from dsd_core import embedded
from dsd_core.decoding.chains.placement import Claim, Machine, ModelSize, better_span, binding, choose_span
from dsd_core.errors import InvalidWeights, ModelNotFound, UnsupportedModel
from dsd_core.membership.ids import PeerId
from dsd_core.membership.needs import WantedModel, claims, layer_seconds, wanted_model
from dsd_core.membership.record import PeerRecord
from dsd_core.model.memory import usable_bytes
from dsd_core.model.size import model_size
from dsd_core.model.source import ModelSource, is_hub_id, resolve
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
        of_it = self._of_it(records)
        return choose_span(self._machine(peer, of_it), self.size, binding(self._claims(of_it), peer, elders))

    def better_layers(self, peer: PeerId, layers: range, records: Iterable[PeerRecord]) -> range | None:
        """The layers that a swarm needs of us much more than those which we serve, if there are any."""
        of_it = self._of_it(records)
        others = [claim.held for claim in self._claims(of_it) if claim.peer != peer]
        machine = self._machine(peer, of_it)
        return better_span(machine, self.size, machine.holding(layers), others)

    def _of_it(self, records: Iterable[PeerRecord]) -> list[PeerRecord]:
        return [record for record in records if record.holding.manifest_hash == self.source.manifest_hash]

    def _claims(self, records: Iterable[PeerRecord]) -> list[Claim]:
        return claims(records, self.source.manifest_hash, self.source.num_layers)

    def _machine(self, peer: PeerId, records: Iterable[PeerRecord]) -> Machine:
        """As fast as the others: only who is far from them would choose otherwise."""
        return Machine(peer, self.memory, layer_seconds(records))


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
    for name in filter(_may_be_tried, wanted.names[:TRIED_NAMES]):
        try:
            source = resolve(name)
        except (ModelNotFound, UnsupportedModel, InvalidWeights):
            continue
        if source.manifest_hash == wanted.manifest_hash:
            return source
    raise ModelNotFound(f"the swarm serves {wanted.names[0][:100]!r}, which is not to be had here; name your copy with --model")


def _may_be_tried(name: str) -> bool:
    """A stranger's name leads nowhere but to the hub, or to where the model lies on machines that are set up alike."""
    return ".." not in name and (is_hub_id(name) or Path(name).is_absolute())
