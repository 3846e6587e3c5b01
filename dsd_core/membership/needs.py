"""What the records of a swarm ask of a machine that would serve in it: which model, and who holds which part."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from dsd_core.decoding.chains.flow import Held
from dsd_core.decoding.chains.placement import Claim
from dsd_core.membership.record import Holding, PeerRecord, Role, State

LAYER_SECONDS = 0.001
"""What a frame takes in one layer, as long as nobody has measured it. Only how it compares with others matters."""


@dataclass(frozen=True, slots=True)
class WantedModel:
    """The model that a swarm serves."""

    manifest_hash: str
    names: tuple[str, ...]
    """What its peers call it, the most frequent first; some may be paths of their own machines."""
    dtype: str
    """That most peers compute in. It must be equal along a lane."""


def wanted_model(records: Iterable[PeerRecord]) -> WantedModel | None:
    """The target model that most peers hold, or are loading. None if there is no such peer."""
    holdings = [record.holding for record in records if _stays(record)]
    if not holdings:
        return None
    manifest_hash = _most_frequent(holding.manifest_hash for holding in holdings)[0]
    of_it = [holding for holding in holdings if holding.manifest_hash == manifest_hash]
    names = _most_frequent(holding.model for holding in of_it)
    return WantedModel(manifest_hash, names, _most_frequent(holding.dtype for holding in of_it)[0])


def claims(records: Iterable[PeerRecord], manifest_hash: str, num_layers: int) -> list[Claim]:
    """Who holds, or is about to hold, which layers of a model. Who leaves does not count."""
    of_it = [record for record in records if _stays(record) and _is_of(record.holding, manifest_hash, num_layers)]
    usual = layer_seconds(of_it)
    return [
        Claim(record.peer, Held(record.holding.span, 1 / _frame_seconds(record, usual)), record.state is State.JOINING)
        for record in of_it
    ]


def layer_seconds(records: Iterable[PeerRecord]) -> float:
    """What a frame takes in one layer at the middlemost of the peers that have measured it."""
    measured = [_stated_seconds(record) / len(record.holding.span) for record in records if _stated_seconds(record)]
    return median(measured) if measured else LAYER_SECONDS


def _stays(record: PeerRecord) -> bool:
    return record.role is Role.TARGET and record.state is not State.DRAINING


def _is_of(holding: Holding, manifest_hash: str, num_layers: int) -> bool:
    """A record of the same manifest that counts other layers is a lie, and serves nobody."""
    return holding.manifest_hash == manifest_hash and holding.num_layers == num_layers


def _frame_seconds(record: PeerRecord, usual: float) -> float:
    return _stated_seconds(record) or usual * len(record.holding.span)


def _stated_seconds(record: PeerRecord) -> float:
    """Of a frame of one node; 0 as long as the peer has not measured it."""
    return record.capacity.frame_seconds + record.capacity.node_seconds


def _most_frequent(names: Iterable[str]) -> tuple[str, ...]:
    """The most frequent first; among equals by name, so that everybody comes to the same."""
    return tuple(name for name, _ in sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))
