"""Adaptive acceptance as a conversation asks for it: what may be forgiven, and how far latency opens the tolerance."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dsd_client.chain_choice import links_of
from dsd_client.drafting import SessionDrafter
from dsd_client.stage import Stage
from dsd_client.swarm import Swarm
from dsd_client.target_model import TargetModel
from dsd_core.decoding.chains.routing import Links
from dsd_core.decoding.choice.acceptance import (
    MODES,
    RULES,
    TOLERANCE_NATS,
    Acceptance,
    Adaptive,
    Exact,
    latency_factor,
)
from dsd_core.decoding.choice.importance import CLASSES_UNKNOWN, KeyTokens
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.ids import TokenId
from dsd_core.errors import UsageError

LOCAL_HOP_SECONDS = 0.002
"""What a hop between neighbours takes, our own handling of it included: nothing that is worth an inexact answer."""
DRAFTER_SECONDS = 1.0
"""How long a conversation waits until it is known what drafts for it."""
PROBES = 3
"""Of each stage and of the drafter; the least counts, so that a busy moment at either end is not taken for distance."""


NO_DRAFTER = f"it was not known within {DRAFTER_SECONDS:g} s what drafts, and so not what latency there is to hide"
NO_LATENCY, NO_TOLERANCE, NO_BUDGET = "there is no latency to hide", "the tolerance is 0", "the drift budget is 0"


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A conversation's rule of acceptance. `note` says why it is not what was asked for, or what it lacks."""

    rule: Acceptance
    mode: str = "exact"
    tolerance: float = 0.0
    drift_budget: float | None = None
    """Nats; None: no limit."""
    latency_factor: float = 0.0
    note: str = ""

    @property
    def is_lossy(self) -> bool:
        return self.mode != "exact"


EXACT = Relaxation(Exact())


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say. Raises UsageError for what means nothing."""

    acceptance: str = "exact"
    tolerance: float = TOLERANCE_NATS
    drift_budget: float | None = None
    latency_factor: float | None = None
    """None: by the latency that there is to hide, when the session opens."""

    def __post_init__(self) -> None:
        if self.acceptance not in MODES:
            raise UsageError(f"there is no acceptance {self.acceptance!r}; use {', '.join(MODES[:-1])} or {MODES[-1]}")
        if self.drift_budget == math.inf:
            raise UsageError("the drift budget is inf; leave it out to set no limit")
        self.rule(1.0 if self.latency_factor is None else self.latency_factor, CLASSES_UNKNOWN)

    @property
    def is_lossy(self) -> bool:
        return self.acceptance != "exact"

    def rule(self, factor: float, key_tokens: KeyTokens) -> Adaptive:
        budget = math.inf if self.drift_budget is None else self.drift_budget
        return Adaptive(self.tolerance, factor, budget, key_tokens, **RULES.get(self.acceptance, {}))


class Relaxer:
    """Makes the rule for each conversation. The target's key tokens are found once, when first needed."""

    def __init__(self, target: TargetModel, swarm: Swarm) -> None:
        self._target = target
        self._swarm = swarm
        self._key_tokens: asyncio.Future[KeyTokens | None] | None = None

    async def open(self, asked: Asked, stages: Sequence[Stage], drafter: SessionDrafter | None) -> Relaxation:
        """Fixed for the session, on its first chain of stages."""
        if not asked.is_lossy:
            return EXACT
        if drafter is None:
            return Relaxation(Exact(), note="nothing is drafted, so there is nothing to forgive")
        factor = asked.latency_factor
        if factor is None:
            if not await _opens_soon(drafter):
                return Relaxation(Exact(), note=NO_DRAFTER)
            measured = await self._swarm.measured_again(stages, PROBES)
            factor = latency_factor(network_seconds(measured), await _draft_seconds(drafter))
        for left, why in ((factor, NO_LATENCY), (asked.tolerance, NO_TOLERANCE), (asked.drift_budget, NO_BUDGET)):
            if left == 0:
                return Relaxation(Exact(), note=why)
        key = await self._found_key_tokens()
        note = "" if key is not None else "the tokenizer's tokens cannot be told apart: statistics alone decide"
        rule = asked.rule(factor, key or CLASSES_UNKNOWN)
        return Relaxation(rule, asked.acceptance, asked.tolerance, asked.drift_budget, factor, note)

    async def _found_key_tokens(self) -> KeyTokens | None:
        from dsd_core.model.token_classes import key_tokens

        if self._key_tokens is None:
            finding = asyncio.to_thread(key_tokens, self._target.tokenizer, self._target.shape.vocab_size)
            self._key_tokens = asyncio.ensure_future(finding)
        return await asyncio.shield(self._key_tokens)


def network_seconds(stages: Sequence[Stage]) -> float:
    """What a frame's way through a chain and back is predicted to spend between machines, rather too little than too much."""
    links = links_of(stages)
    between = [_round_trip(links, one, other) for one, other in pairwise(stages)]
    round_trips = (links.to(stages[0]), *between, links.to(stages[-1]))
    return sum(max(0.0, round_trip / 2 - LOCAL_HOP_SECONDS) for round_trip in round_trips)


def _round_trip(links: Links[Stage], one: Stage, other: Stage) -> float:
    """Of peers that state none: what ours to them is on average. Else as they say, but never longer than the way over us."""
    through_us = links.to(one) + links.to(other)
    is_stated = not links.stated.keys().isdisjoint([(one, other), (other, one)])
    return min(links.between(one, other), through_us) if is_stated else through_us / 2


async def _opens_soon(drafter: SessionDrafter) -> bool:
    try:
        async with asyncio.timeout(DRAFTER_SECONDS):
            await drafter.opened()
    except TimeoutError:
        return False
    return True


async def _draft_seconds(drafter: SessionDrafter) -> float:
    """Of a step, at best: the first ones warm up."""
    now = asyncio.get_running_loop().time
    taken = []
    for length in range(1, PROBES + 1):
        asked_at = now()
        await drafter.propose(Contexts.after(*[TokenId(0)] * length), steps=1, candidates=1)
        taken.append(now() - asked_at)
    return min(taken)
