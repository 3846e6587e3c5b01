"""A session, its drafter, its lane and its network in virtual time: no sleep, no clock, all chance from one seed.

    Session --frames--> stage 0 --what is alive of them--> stage 1 ... --verdicts, in any order--> Session

Stages hold the real StageTree beside a naive model of it, and the last one reads the tokens for its choice through the
slots that a node attends to: a slot shared, freed too soon or seen by mistake shows as an assertion, or as another text.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dsd_core.decoding.events import (
    Action,
    Ask,
    Branch,
    CloseLane,
    CommittedToken,
    Draft,
    Drafted,
    DraftedToken,
    Emit,
    Event,
    Finish,
    FinishReason,
    LaneDraining,
    LaneLost,
    LaneOpened,
    OpenLane,
    Origin,
    Send,
    Stop,
    Tick,
    VerdictsArrived,
)
from dsd_core.decoding.frames import NO_TIME, ComputeTime, Frame, FrameNode, Verdict
from dsd_core.decoding.ids import LaneId
from dsd_core.decoding.lookahead.policy import Lookahead, Move, Propose, Verify, View
from dsd_core.decoding.session import Counts, Session
from dsd_core.decoding.stage_tree import Placement, StageTree

Tokens = tuple[int, ...]


class Target(Protocol):
    """A model: its choice after these tokens, and nothing else."""

    def choice(self, tokens: Tokens) -> int: ...


class Drafter(Protocol):
    """Candidate continuations of these tokens, each of at most `steps` tokens, the likeliest first."""

    def propose(self, tokens: Tokens, steps: int) -> list[Tokens]: ...


@dataclass(frozen=True)
class ToyTarget:
    """Anything can follow anything; a few contexts repeat, so that a chat comes back to a text it had left."""

    seed: int
    vocabulary: int = 29

    def choice(self, tokens: Tokens) -> int:
        return hash((self.seed, *tokens)) // 64 % self.vocabulary


@dataclass(frozen=True)
class ToyDrafter:
    """Right in a share `acceptance` of all contexts. Where its first candidate is wrong the second may be right."""

    target: Target
    acceptance: float
    candidates: int = 1
    vocabulary: int = 29

    def propose(self, tokens: Tokens, steps: int) -> list[Tokens]:
        return [self._chain(tokens, steps, rank) for rank in range(self.candidates)]

    def is_right(self, tokens: Tokens) -> bool:
        return hash((7, *tokens)) // 64 % 1000 < 1000 * self.acceptance

    def _chain(self, tokens: Tokens, steps: int, rank: int) -> Tokens:
        chain: list[int] = []
        for step in range(steps):
            context = (*tokens, *chain)
            wrong_by = (0 if self.is_right(context) else 1) + (rank if step == 0 else 0)
            if wrong_by == 2:
                wrong_by = 0 if hash((9, *context)) // 64 % 2 else 2
            chain.append((self.target.choice(context) + wrong_by) % self.vocabulary)
        return tuple(chain)


@dataclass(frozen=True)
class Weather:
    """What the network and the machines do to a session: durations in seconds, chances between 0 and 1."""

    latency: float = 0.020
    jitter: float = 0.0
    stage_seconds: float = 0.005
    draft_seconds: float = 0.002
    """Of one token."""
    late_draft: float = 0.0
    """Chance that the drafter takes as long as several round trips."""
    silent_draft: float = 0.0
    """Chance that the drafter proposes nothing, or less than it was asked for."""
    lane_loss: float = 0.0
    """Chance that a lane, sooner or later, loses a frame and all that follow it, and nobody says so."""
    lane_death: float = 0.0
    """Chance that a lane, sooner or later, dies, and that is noticed."""
    draining: float = 0.0
    """Chance that a lane, sooner or later, announces its end, and dies some time after it."""
    no_lanes: float = 0.0
    """Chance that a lane that is wanted is long not to be had."""
    straggling: float = 0.0
    """Chance that a lane is a hundred times as slow as others."""
    verdict_loss: float = 0.0
    duplication: float = 0.0
    """Chance that verdicts come twice, the second time much later."""
    scattered: bool = False
    """Verdicts of a frame come in pieces, in any order."""
    stop: float = 0.0
    """Chance that the reader goes away in the middle of an answer."""


CALM = Weather()


class Flood(Lookahead):
    """Not one of ours: drafts down a single line without waiting and sends at random, by any lane that serves, to have many
    frames in flight."""

    def __init__(self, chance: random.Random, depth: int) -> None:
        self._chance = chance
        self._depth = depth
        self._sent: set[int] = set()

    def moves(self, view: View) -> Sequence[Move]:
        if not view.tip_sent:
            self._sent.clear()
        unsent = tuple(node.id for node in view.tree.drafts() if node.id not in self._sent)
        moves: list[Move] = []
        if not view.tip_sent or (unsent and self._chance.random() < 0.7):
            self._sent.update(unsent)
            lane = view.lanes[0] if not view.tip_sent else self._chance.choice(view.lanes)
            moves.append(Verify(lane.id, unsent))
        leaf = max((view.tree.tip, *view.tree.drafts()), key=lambda node: node.position)
        ahead = leaf.position - view.tree.tip.position
        room = min(self._depth, view.remaining - 1) - ahead
        if room > 0 and not view.drafting and not leaf.expanded:
            moves.append(Propose((leaf.id,), self._chance.randint(1, room), candidates=3))
        return moves

    def on_drafted(self, tokens: int, seconds: float) -> None:
        assert seconds >= 0

    def on_round_trip(self, nodes: int, seconds: float) -> None:
        assert seconds > 0


class Stage:
    """The real tree of one stage, watched by a naive one that keeps every path in full."""

    def __init__(self, capacity: int, *, linear: bool) -> None:
        self.tree = StageTree(capacity)
        self.queue: deque[tuple[Frame, ComputeTime]] = deque()
        self.busy = False
        self._linear = linear
        self._paths: dict[int, Tokens] = {0: ()}
        self._tokens: dict[int, int] = {}
        self._slots: dict[int, int] = {}
        """Of live nodes."""
        self._live = {0}

    def register(self, frame: Frame) -> None:
        self.tree.register(frame)
        for node in frame.nodes:
            if node.parent in self._live:
                self._paths[node.id] = (*self._paths[node.parent], node.id)
                self._tokens[node.id] = node.token
                self._live.add(node.id)
        keep = self._paths[frame.keep]
        self._live = {node for node in self._live if self._is_related(self._paths[node], keep)}
        self._slots = {node: slot for node, slot in self._slots.items() if node in self._live}

    def place(self, frame: Frame) -> tuple[Frame, list[Tokens]]:
        """Compute what is still alive of a frame: what the next stage is told, and the tokens that each node attends to."""
        placement = self.tree.place(frame)
        alive = tuple(node for node in frame.nodes if node.id in self._live)
        assert tuple(frame.nodes[row] for row in placement.rows) == alive
        self._take(placement, alive)
        return Frame(alive, placement.keep), self._contexts(placement, alive)

    def _take(self, placement: Placement, nodes: Sequence[FrameNode]) -> None:
        for node, slot, position in zip(nodes, placement.slots.tolist(), placement.positions.tolist(), strict=True):
            assert slot not in self._slots.values(), "two live nodes share a slot"
            assert position == len(self._paths[node.id]) - 1
            assert not self._linear or slot == position, "a linear session is contiguous"
            self._slots[node.id] = slot
        assert self.tree.held == len(self._slots) <= self.tree.capacity
        assert self.tree.used == max(self._slots.values(), default=-1) + 1

    def _contexts(self, placement: Placement, nodes: Sequence[FrameNode]) -> list[Tokens]:
        owner = {slot: node for node, slot in self._slots.items()}
        depth = placement.slot_positions.tolist()
        contexts = []
        for node, row in zip(nodes, placement.visible.tolist(), strict=True):
            seen = sorted((slot for slot, visible in enumerate(row) if visible), key=depth.__getitem__)
            assert tuple(owner[slot] for slot in seen) == self._paths[node.id], "a node attends to its ancestors and itself"
            contexts.append(tuple(self._tokens[owner[slot]] for slot in seen))
        return contexts

    @staticmethod
    def _is_related(path: Tokens, keep: Tokens) -> bool:
        shorter = min(len(path), len(keep))
        return path[:shorter] == keep[:shorter]


class Chain:
    """The stages of a lane and the links between them. A link that loses a frame loses all that follow."""

    def __init__(self, lane: LaneId, stages: int, capacity: int, *, linear: bool, frames_to_loss: int | None) -> None:
        self.lane = lane
        self.slowness = 1.0
        self._frames_to_loss = frames_to_loss
        self.stages = [Stage(capacity, linear=linear) for _ in range(stages)]
        self._last_arrival = [0.0] * stages
        self._broken: set[int] = set()

    def arrival(self, link: int, at: float) -> float | None:
        """When what is sent on a link arrives, not before what was sent earlier; None if never."""
        if self._frames_to_loss is not None:
            self._frames_to_loss -= 1
            if self._frames_to_loss == 0:
                self._broken.add(link)
        if link in self._broken:
            return None
        self._last_arrival[link] = max(at, self._last_arrival[link])
        return self._last_arrival[link]


@dataclass
class Answer:
    """What a reader got."""

    ask: Ask
    tokens: list[CommittedToken] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    reason: FinishReason | None = None
    seconds: float = 0.0

    @property
    def text(self) -> list[int]:
        return [committed.token for committed in self.tokens]

    @property
    def origins(self) -> list[Origin]:
        return [committed.origin for committed in self.tokens]


class World:
    """Performs a session's actions and feeds back what comes of them, in the order of virtual time."""

    def __init__(
        self,
        session: Session,
        target: Target,
        drafter: Drafter,
        *,
        weather: Weather = CALM,
        seed: int = 0,
        stages: int = 2,
        linear: bool = True,
    ) -> None:
        self.session = session
        self.now = 0.0
        self.log: list[tuple[float, Event, list[Action]]] = []
        self.lanes_opened = 0
        self.lanes_lost = 0
        self.lanes_drained = 0
        self._target = target
        self._drafter = drafter
        self._weather = weather
        self._chance = random.Random(seed)
        self._stages = stages
        self._linear = linear
        self._chains: dict[LaneId, Chain] = {}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._answer: Answer | None = None
        self._progress_at = 0
        """How long the log was when something last committed."""

    def ask(self, tokens: Sequence[int], max_new_tokens: int, end_tokens: frozenset[int] = frozenset()) -> Answer:
        """Put a question, let time pass until it is answered, and check the answer against plain decoding."""
        before, began = dict(_totals(self.session.counts)), self.now
        self._answer = answer = Answer(Ask(tuple(tokens), max_new_tokens, end_tokens))
        if self._happens(self._weather.stop):
            self._later(self._chance.uniform(0, 1), lambda: self._stop(answer))
        self._step(answer.ask)
        while answer.reason is None:
            self._advance()
        answer.seconds = self.now - began
        self._check(answer, before)
        return answer

    def rest(self, seconds: float) -> None:
        """Let time pass with nothing asked; what is late arrives."""
        until = self.now + seconds
        while self._agenda and self._agenda[0][0] <= until:
            self._advance()
        self.now = until

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        deadline = self.session.deadline
        if deadline is not None and (not self._agenda or deadline < self._agenda[0][0]):
            self.now = max(self.now, deadline)
            return self._step(Tick())
        assert self._agenda, "the session waits for something that nobody will do"
        self.now, _, happen = heapq.heappop(self._agenda)
        happen()

    def _later(self, seconds: float, happen: Callable[[], None]) -> None:
        self._at(self.now + seconds, happen)

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time, next(self._order), happen))

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._chance.random() < chance

    def _delay(self) -> float:
        return self._weather.latency + self._weather.jitter * self._chance.random()

    def _step(self, event: Event) -> None:
        assert len(self.log) - self._progress_at < 5000, "the session makes no progress"
        actions = self.session.step(event, self.now)
        self.log.append((self.now, event, actions))
        if any(isinstance(action, Emit | Finish) for action in actions):
            self._progress_at = len(self.log)
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        assert self._answer is not None
        match action:
            case Send():
                self._answer.frames.append(action.frame)
                if action.lane in self._chains:
                    self._transmit(self._chains[action.lane], 0, action.frame, NO_TIME)
            case Draft():
                self._draft(action)
            case Emit():
                self._answer.tokens += action.tokens
            case OpenLane():
                long = self._happens(self._weather.no_lanes)
                self._later(self._chance.uniform(0, 20 if long else 0.2) if self.lanes_opened else 0.0, self._open_lane)
            case CloseLane():
                self._chains.pop(action.lane, None)
            case Finish():
                self._answer.reason = action.reason

    # -- the reader, the drafter and the lane --------------------------------------------------------------------------

    def _stop(self, answer: Answer) -> None:
        if answer.reason is None:
            self._step(Stop(FinishReason.CANCELLED))

    def _draft(self, action: Draft) -> None:
        steps = action.steps
        if self._happens(self._weather.silent_draft):
            steps = self._chance.randrange(steps)
        branches = tuple(branch for parent in action.parents for branch in self._branches(parent, steps)) if steps else ()
        seconds = action.steps * self._weather.draft_seconds
        if self._happens(self._weather.late_draft):
            seconds += self._chance.uniform(0, 0.5)
        self._later(seconds, lambda: self._step(Drafted(action.request, branches)))

    def _branches(self, parent: int, steps: int) -> list[Branch]:
        contexts = self.session.tree.contexts((parent,))
        chains = self._drafter.propose((*contexts.trunk, *contexts.tails[0]), steps)
        drafted = [tuple(DraftedToken(token, 0.5) for token in chain) for chain in chains]
        return [Branch(parent, tokens, rank) for rank, tokens in enumerate(drafted)]

    def _open_lane(self) -> None:
        doomed = self._happens(self._weather.lane_loss)
        frames_to_loss = self._chance.randint(1, 40) if doomed else None
        lane, capacity = LaneId(self.lanes_opened), self.session.config.capacity
        chain = Chain(lane, self._stages, capacity, linear=self._linear, frames_to_loss=frames_to_loss)
        chain.slowness = 100.0 if self._happens(self._weather.straggling) else 1.0
        self.lanes_opened += 1
        self._chains[lane] = chain
        if self._happens(self._weather.lane_death):
            self._later(self._chance.expovariate(2.0), lambda: self._kill(lane))
        if self._happens(self._weather.draining):
            self._later(self._chance.expovariate(2.0), lambda: self._drain(lane))
        self._step(LaneOpened(lane))

    def _kill(self, lane: LaneId) -> None:
        if self._chains.pop(lane, None) is not None:
            self.lanes_lost += 1
            self._step(LaneLost(lane))

    def _drain(self, lane: LaneId) -> None:
        if lane in self._chains:
            self.lanes_drained += 1
            self._later(self._chance.uniform(0, 2), lambda: self._kill(lane))
            self._step(LaneDraining(lane))

    def _transmit(self, chain: Chain, stage: int, frame: Frame, time: ComputeTime) -> None:
        arrival = chain.arrival(stage, self.now + self._delay())
        if arrival is not None:
            self._at(arrival, lambda: self._arrive(chain, stage, frame, time))

    def _arrive(self, chain: Chain, number: int, frame: Frame, time: ComputeTime) -> None:
        stage = chain.stages[number]
        stage.register(frame)
        stage.queue.append((frame, time))
        if not stage.busy:
            self._compute(chain, number)

    def _compute(self, chain: Chain, number: int) -> None:
        stage = chain.stages[number]
        frame, time = stage.queue.popleft()
        alive, contexts = stage.place(frame)
        stage.busy = True
        seconds = chain.slowness * self._weather.stage_seconds * (1 + 0.1 * len(alive.nodes))
        self._later(seconds, lambda: self._computed(chain, number, alive, contexts, time.plus(seconds)))

    def _computed(self, chain: Chain, number: int, frame: Frame, contexts: list[Tokens], time: ComputeTime) -> None:
        if frame.nodes and number + 1 < len(chain.stages):
            self._transmit(chain, number + 1, frame, time)
        else:
            self._judge(chain, frame, contexts, time)
        chain.stages[number].busy = False
        if chain.stages[number].queue:
            self._compute(chain, number)

    def _judge(self, chain: Chain, frame: Frame, contexts: list[Tokens], time: ComputeTime) -> None:
        judged = zip(frame.nodes, contexts, strict=True)
        verdicts = [self._verdict(node, context) for node, context in judged if node.wants_verdict]
        while verdicts:
            size = self._chance.randint(1, len(verdicts)) if self._weather.scattered else len(verdicts)
            self._return(VerdictsArrived(chain.lane, tuple(verdicts[:size]), time))
            del verdicts[:size]

    def _verdict(self, node: FrameNode, context: Tokens) -> Verdict:
        return Verdict(node.id, self._target.choice(context), margin=1.0)

    def _return(self, arrived: VerdictsArrived) -> None:
        """Verdicts of a lane that is gone are delivered too."""
        if not self._happens(self._weather.verdict_loss):
            self._later(self._delay(), lambda: self._step(arrived))
        if self._happens(self._weather.duplication):
            self._later(self._delay() + self._chance.uniform(0, 0.5), lambda: self._step(arrived))

    # -- the promises --------------------------------------------------------------------------------------------------

    def _check(self, answer: Answer, before: dict[str, int]) -> None:
        ask, counts = answer.ask, self.session.counts
        self._check_text(answer)
        assert list(self.session.tree.tokens) == [*ask.tokens, *answer.text]
        assert counts.prompt_tokens == len(ask.tokens)
        gained = {name: value - before[name] for name, value in _totals(counts)}
        for origin in Origin:
            also = answer.origins.count(Origin.RELAXED) if origin is Origin.ACCEPTED else 0
            assert gained[origin.value] == answer.origins.count(origin) + also
        assert gained["new_tokens"] == len(answer.tokens)
        assert gained["accepted"] <= gained["drafted"]
        assert gained["wasted"] <= sum(len(frame.nodes) for frame in answer.frames)


    def _check_text(self, answer: Answer) -> None:
        expected = plain_decoding(self._target, answer.ask)
        if answer.reason is FinishReason.CANCELLED:
            assert answer.text == expected[: len(answer.tokens)]
        else:
            assert answer.text == expected
            ended = bool(expected) and expected[-1] in answer.ask.end_tokens
            assert answer.reason is (FinishReason.STOP if ended else FinishReason.LENGTH)


def plain_decoding(target: Target, ask: Ask) -> list[int]:
    """What the target says one token at a time."""
    text: list[int] = []
    while len(text) < ask.max_new_tokens and not (text and text[-1] in ask.end_tokens):
        text.append(target.choice((*ask.tokens, *text)))
    return text


def _totals(counts: Counts) -> list[tuple[str, int]]:
    names = ("drafted", "accepted", "recovered", "bonus", "new_tokens", "frames", "wasted", "near_ties", "relaxed")
    return [(name, getattr(counts, name)) for name in names]
