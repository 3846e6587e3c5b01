"""Which of the stages that have answered make a chain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dsd_client.stage import Stage
from dsd_core.decoding.chains.routing import Links, Offer, chain
from dsd_core.errors import NoPeers, NotCovered, Refused
from dsd_core.membership.ways import stated_round_trips
from dsd_core.network.address import Address
from dsd_core.wire.hidden import DType

FAILED_SECONDS, SERVING_SECONDS = 1000.0, 30.0
"""A detour so long is better than a stage that has just failed, or than to depend on one stage twice."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a chain should be like. Stages that `failed`, or serve already, are taken only where there are no others."""

    dtype: DType | None = None
    failed: frozenset[Address] = frozenset()
    serving: frozenset[Address] = frozenset()

    def allow(self, stage: Stage) -> bool:
        return self.dtype in (None, stage.dtype) and not stage.description.draining

    def offer(self, stage: Stage) -> Offer:
        drawback = FAILED_SECONDS if stage.address in self.failed else SERVING_SECONDS if stage.address in self.serving else 0.0
        return replace(stage.offer, seconds=stage.offer.seconds + drawback)


ANY = Wishes()


def chain_of(
    stages: Sequence[Stage], failures: Sequence[BaseException] = (), wishes: Wishes = ANY
) -> tuple[Stage, ...]:
    """The stages that a session would take now. Raises NoPeers, NotCovered or Refused.

    Peers that do not answer are done without, unless they may be what is missing: then the first of their `failures` is
    raised.
    """
    offers = {stage: wishes.offer(stage) for stage in stages if wishes.allow(stage)}
    if not offers:
        raise failures[0] if failures else NoPeers("no peer has answered; check that one is running")
    try:
        route = chain(offers, stages[0].description.num_layers, links_of(stages))
    except NotCovered:
        if failures:
            raise failures[0] from None
        raise
    _require_one_dtype(route)
    return route


def links_of(stages: Sequence[Stage]) -> Links[Stage]:
    """As far as we, and they, have measured them."""
    stated = stated_round_trips({stage: stage.record for stage in stages if stage.record is not None})
    return Links({stage: stage.round_trip for stage in stages}, stated)


def _require_one_dtype(stages: Sequence[Stage]) -> None:
    dtypes = {stage.dtype: stage for stage in stages}
    if len(dtypes) > 1:
        named = ", ".join(f"{stage.address} {dtype.value}" for dtype, stage in dtypes.items())
        raise Refused(f"the stages compute in different types ({named}); start them with one --dtype")
