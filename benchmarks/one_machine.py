"""A swarm whose client, drafter and stages share the cores of one machine, in virtual time, on recorded answers.

The session, its policy and the drafter are the real ones. Links are modelled, and computing takes what it was measured to take.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.cores import Cores
from benchmarks.virtual_time import Acceptance, Cell, World
from dsd_core import embedded
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.belief import Sharpness
from dsd_core.decoding.drafting.guessers import Seconded, Stepwise
from dsd_core.decoding.events import Branch, Draft, Drafted, Event, VerdictsArrived
from dsd_core.decoding.frames import ComputeTime, Frame, FrameNode, Verdict
from dsd_core.decoding.ids import ROOT, LaneId, NodeId, TokenId
from dsd_core.decoding.lookahead.policy import Lookahead
from dsd_core.model.drafter import ModelDrafter
from dsd_core.model.source import resolve
from dsd_core.model.span import Span

DRAFTER_SLACK = 2048
"""Slots of the drafter for drafts."""
NOTHING_RIGHT = TokenId(-1)
"""What the target chooses where a draft was wrong before: nobody has drafted it."""


@dataclass(frozen=True)
class Costs:
    """Milliseconds of a core, as measured with the embedded pair, four stages and a client on two cores (LOG.md)."""

    draft: float = 1.0
    branch: float = 0.33
    """What a branch more adds to a draft step."""
    step: float = 0.25
    """The session's, for what was drafted."""
    frame: float = 2.5
    """In the client, for a frame and its verdicts."""
    hop: float = 0.7
    """In a stage's loop, on the way in and on the way out."""
    launch: float = 3.1
    node: float = 0.05


COSTS = Costs()


@dataclass(frozen=True)
class Text:
    """A prompt, and what the target answers."""

    prompt: tuple[TokenId, ...]
    answer: tuple[TokenId, ...]


class Drafters:
    """The embedded drafter, loaded once; what it has learnt of its own sharpness goes from answer to answer."""

    def __init__(self) -> None:
        self._source = resolve(str(embedded.DRAFTER))
        self._span = Span.load(self._source, range(self._source.num_layers))
        self._sharpness = Sharpness()

    def open(self, capacity: int) -> Stepwise:
        positions = self._source.max_positions
        rule = ChoiceRule(SamplingParams(seed=1))
        model = ModelDrafter(self._span, rule, capacity + DRAFTER_SLACK, positions=positions, sharpness=self._sharpness)
        return Stepwise(Seconded(model))


class OneMachine(World):
    """A client, its drafter and a lane of stages on `count` cores."""

    def __init__(self, policy: Lookahead, cell: Cell, count: float, text: Text, drafters: Drafters) -> None:
        nothing = Acceptance([1] * (len(text.prompt) + len(text.answer)), [], [0.5])
        super().__init__(policy, cell, nothing)
        self.cores = Cores(count, self)
        self._text = text.prompt + text.answer
        self._drafter = drafters.open(self._capacity)
        self._places: dict[NodeId, int] = {}
        """How many tokens lead to a node, for those that are right; by the lane's numbers."""

    def call_in(self, seconds: float, happen: Callable[[], None]) -> None:
        self._later(1000 * seconds, happen)

    def close(self) -> None:
        self._drafter.close()

    def _step(self, event: Event) -> None:
        match event:
            case VerdictsArrived():
                self.cores.run(COSTS.frame / 2, partial(super()._step, event), is_clients=True)
            case Drafted():
                self.cores.run(COSTS.step, partial(super()._step, event), is_clients=True)
            case _:
                super()._step(event)

    def _draft(self, draft: Draft) -> None:
        contexts = self.session.tree.contexts(draft.parents)
        proposals = self._drafter.propose(contexts, steps=draft.steps, candidates=draft.candidates, least=draft.least)
        branches = tuple(
            Branch(parent, run, rank)
            for parent, proposal in zip(draft.parents, proposals, strict=True)
            for rank, run in enumerate(proposal)
        )
        steps = max((len(branch.tokens) for branch in branches), default=1)
        milliseconds = steps * (COSTS.draft + COSTS.branch * (len(draft.parents) - 1))
        self.cores.run(milliseconds, partial(self._step, Drafted(draft.request, branches)), is_clients=True)

    def _transmit(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        leave = partial(super()._transmit, lane, number, frame, time)
        if number == 0:
            self.cores.run(COSTS.frame / 2, leave, is_clients=True)
        else:
            leave()

    def _arrive(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        self.cores.run(COSTS.hop, partial(super()._arrive, lane, number, frame, time))

    def _occupy(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        self._lanes[lane][number].busy = True
        self._computed += len(frame.nodes)
        began = self.now

        def computed() -> None:
            spent = time.plus(self.now - began)
            self.cores.run(COSTS.hop, partial(self._leave, lane, number, frame, spent))
            self._compute(lane, number)

        self.cores.run(self._cell.launch + self._cell.node * len(frame.nodes), computed)

    def _leave(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        if number + 1 < self._cell.stages:
            return self._transmit(lane, number + 1, frame, time)
        arrived = VerdictsArrived(lane, self._verdicts(lane, frame), time)
        self._later(self._delay(), partial(self._step, arrived))

    def _verdicts(self, lane: LaneId, frame: Frame) -> tuple[Verdict, ...]:
        for node in frame.nodes:
            self._place(node)
        choices = [(node, self._choice(node.id)) for node in frame.nodes if node.wants_verdict]
        return tuple(Verdict(node.id, choice, margin=1.0) for node, choice in choices)

    def _place(self, node: FrameNode) -> None:
        above = 0 if node.parent == ROOT else self._places.get(node.parent)
        if above is not None and above < len(self._text) and self._text[above] == node.token:
            self._places[node.id] = above + 1

    def _choice(self, node: NodeId) -> TokenId:
        place = self._places.get(node, math.inf)
        return self._text[int(place)] if place < len(self._text) else NOTHING_RIGHT
