"""R3 of the promises on a real wire: between codec and session verdicts come twice, late and in any order, frames late."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn

import pytest

from dsd_client import Client, lane_source
from dsd_client.lane_link import LaneEvent, LaneLink
from dsd_core.decoding.events import VerdictsArrived
from dsd_core.decoding.frames import Frame
from tests.conftest import InProcessSwarm, TinyModel
from tests.scale import count

PROMPT = [5, 6, 7, 40, 41]
TOKENS = 40
ANSWERS = count(2, 20)
LONGEST_SECONDS = 0.05
"""That anything is held back; more than a round takes."""

Deliver = Callable[[LaneEvent], None]


@dataclass
class Disorder:
    """What happens to verdicts and frames, and how often it did."""

    chance: random.Random
    hits: Counter[str] = field(default_factory=Counter)

    def happens(self, what: str, share: float) -> bool:
        does = self.chance.random() < share
        self.hits[what] += does
        return does

    def pieces(self, event: VerdictsArrived) -> list[VerdictsArrived]:
        """A verdict each, in any order, some of them twice."""
        verdicts = [verdict for verdict in event.verdicts for _ in range(1 + self.happens("duplicated", 0.3))]
        self.chance.shuffle(verdicts)
        return [replace(event, verdicts=(verdict,)) for verdict in verdicts]

    def delay(self, what: str) -> float:
        return self.chance.uniform(0, LONGEST_SECONDS) if self.happens(what, 0.4) else 0.0


class DisorderedLink(LaneLink):
    """A lane whose verdicts overtake each other. Frames do not: a stage takes them in the order of their ids."""

    disorder: Disorder
    _last = 0

    async def _write(self, frame: Frame) -> None:
        await asyncio.sleep(self.disorder.delay("frames delayed"))
        await super()._write(frame)

    async def serve(self, deliver: Deliver) -> NoReturn:
        async with asyncio.TaskGroup() as late:

            def disturb(event: LaneEvent) -> None:
                if not isinstance(event, VerdictsArrived):
                    deliver(event)
                    return
                for piece in self.disorder.pieces(event):
                    late.create_task(self._deliver(piece, deliver))

            await super().serve(disturb)

    async def _deliver(self, piece: VerdictsArrived, deliver: Deliver) -> None:
        await asyncio.sleep(self.disorder.delay("verdicts delayed"))
        node = max(verdict.node for verdict in piece.verdicts)
        self.disorder.hits["reordered"] += node < self._last
        self._last = max(self._last, node)
        deliver(piece)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("speculation", ["off", "blocking", "streaming"])
async def test_the_text_is_the_same_whatever_order_verdicts_come_in(
    new_swarm: InProcessSwarm,
    target: TinyModel,
    drafter: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
    speculation: str,
    lanes: int,
) -> None:
    for _ in range(lanes):
        await new_swarm.start(target, range(2))
        await new_swarm.start(target, range(2, 4))
    reference = target.greedy(PROMPT, TOKENS)
    disorder = Disorder(random.Random(3))
    monkeypatch.setattr(DisorderedLink, "disorder", disorder, raising=False)
    for kind in ("LaneLink", "ReplannedLink"):
        monkeypatch.setattr(lane_source, kind, DisorderedLink)
    async with Client(new_swarm.addresses, str(target), str(drafter)) as client:
        for _ in range(ANSWERS):
            committed: list[int] = []
            async for chunk in client.stream(PROMPT, max_new_tokens=TOKENS, speculation=speculation, lanes=lanes):
                committed += chunk.token_ids
                assert committed == reference.token_ids[: len(committed)], "what has committed never changes"
            reference.assert_same(committed)
    print(speculation, lanes, dict(disorder.hits))
    assert min(disorder.hits[what] for what in ("duplicated", "reordered", "verdicts delayed", "frames delayed")) > 0
