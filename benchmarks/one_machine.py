"""A swarm whose client, drafter and stages share the cores of one machine, in virtual time, on recorded answers.

The session, its policy and the drafter are the real ones. Links are modelled, and computing takes what it was measured to take.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.cores import Cores
from benchmarks.recorded import Text
from benchmarks.virtual_time import Acceptance, Cell, World
from dsd_client.drafting import ModelSourceOfDrafts
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.events import Draft, Drafted, Event, VerdictsArrived
from dsd_core.decoding.frames import ComputeTime, Frame, FrameNode, Verdict
from dsd_core.decoding.ids import ROOT, LaneId, NodeId, TokenId
from dsd_core.decoding.lookahead.policy import Lookahead

DRAFTER_SLACK = 2048
"""Slots of the drafter for drafts."""
GREEDY = ChoiceRule(SamplingParams())
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


class OneMachine(World):
    """A client, its drafter and a lane of stages on `count` cores."""

    def __init__(self, policy: Lookahead, cell: Cell, count: float, text: Text, drafters: ModelSourceOfDrafts) -> None:
        nothing = Acceptance([1] * len(text.tokens), [], [0.5])
        super().__init__(policy, cell, nothing)
        self.cores = Cores(count, self)
        self._text = text.tokens
        self._drafter = drafters.make(GREEDY, self._capacity + DRAFTER_SLACK)
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
        drafted = draft.answered(proposals)
        steps = max((len(branch.tokens) for branch in drafted.branches), default=1)
        milliseconds = steps * (self._cell.draft + COSTS.branch * (len(draft.parents) - 1))
        self.cores.run(milliseconds, partial(self._step, drafted), is_clients=True)

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
            self._pass_on(lane, number, frame, time.plus(self.now - began))

        self.cores.run(self._cell.launch + self._cell.node * len(frame.nodes), computed)

    def _leave(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        self.cores.run(COSTS.hop, partial(super()._leave, lane, number, frame, time))

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
        place = self._places.get(node, len(self._text))
        return self._text[place] if place < len(self._text) else NOTHING_RIGHT
