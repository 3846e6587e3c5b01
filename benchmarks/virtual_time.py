"""A whole swarm in virtual time: the real session, policy and stage trees, over modelled links, stages and drafter.

    Session --frames, d--> stage 0 --d--> ... stage N-1 --verdicts, d--> Session        stages: FIFO, tau0 + tau1 n

The text is a row of token 0. What a drafter proposes is right where the acceptance model says so, and the model says with
which rank. Nothing but time is at stake, so the figures are exact and a run is a matter of a second.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from dsd_core.decoding.events import (
    Ask,
    Branch,
    Draft,
    Drafted,
    DraftedToken,
    Emit,
    Event,
    Finish,
    LaneOpened,
    OpenLane,
    Send,
    Tick,
    VerdictsArrived,
)
from dsd_core.decoding.frames import NO_TIME, ComputeTime, Frame, Verdict
from dsd_core.decoding.ids import ROOT, LaneId, NodeId, TokenId
from dsd_core.decoding.lookahead.policy import Lookahead
from dsd_core.decoding.session import Session, SessionConfig
from dsd_core.decoding.stage_tree import StageTree

RIGHT = TokenId(0)
OFF_THE_PATH = TokenId(99)
MISSES = (0.46, 0.18, 0.10)
"""Shares of the misses that the second, third and fourth candidate would have been."""
BRANCH_SHARE = 0.1
"""What a branch more adds to a draft step."""
SLACK = 512


@dataclass(frozen=True)
class Cell:
    """Stages in a row, one-way delay of a hop, a draft step, a frame at a stage and what a node adds. Milliseconds."""

    stages: int
    delay: float
    draft: float
    launch: float
    node: float

    def round_trip(self, nodes: int) -> float:
        return (self.stages + 1) * self.delay + self.stages * (self.launch + self.node * nodes)


@dataclass(frozen=True)
class Weather:
    """How links and stages stray from a cell: every hop takes up to `jitter` of itself more, and a share `stragglers` of the
    frames takes ten times as long at a stage."""

    jitter: float = 0.0
    stragglers: float = 0.0


CALM = Weather()


@dataclass(frozen=True)
class Acceptance:
    """For each position, the rank of the right candidate (1 is the first, 0 none), and what the drafter believes of its first,
    on the path and off it."""

    ranks: Sequence[int]
    beliefs: Sequence[float]
    beliefs_off_the_path: Sequence[float]

    @property
    def rate(self) -> float:
        return sum(rank == 1 for rank in self.ranks) / len(self.ranks)


@cache
def acceptance(mean: float, *, tokens: int = 2000, seed: int = 1) -> Acceptance:
    """Chances of the first candidate that are Beta(1.5 m, 1.5 (1 - m)), mostly near 0 and 1, with a correlation of 0.3 between
    neighbours; the drafter knows them with noise, and is calibrated."""
    chance = np.random.default_rng(seed)
    quantiles = np.sort(chance.beta(1.5 * mean, 1.5 * (1 - mean), 100_001))
    chances, hints = _chances(quantiles, tokens, chance)
    calibrate = _calibration(*_chances(quantiles, 60_000, chance))
    first, other = chance.random(tokens), chance.random(tokens)
    shares = np.cumsum(MISSES)
    ranks = np.where(first < chances, 1, (np.searchsorted(shares, other) + 2) % 5)
    return Acceptance(ranks.tolist(), calibrate(hints).tolist(), calibrate(_chances(quantiles, tokens, chance)[1]).tolist())


def _chances(
    quantiles: NDArray[np.float64], count: int, chance: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chances of acceptance, and what the drafter sees of them, in logits."""
    steps = chance.standard_normal(count)
    walk = np.empty(count)
    walk[0] = steps[0]
    for place in range(1, count):
        walk[place] = 0.3 * walk[place - 1] + math.sqrt(1 - 0.09) * steps[place]
    uniform = np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in walk])
    chances = quantiles[(uniform * (len(quantiles) - 1)).astype(int)]
    clipped = np.clip(chances, 1e-3, 1 - 1e-3)
    return chances, np.log(clipped / (1 - clipped)) + 1.5 * chance.standard_normal(count)


def _calibration(
    chances: NDArray[np.float64], hints: NDArray[np.float64]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    bins = np.array_split(np.argsort(hints), 60)
    edges = np.array([hints[part[0]] for part in bins[1:]])
    means = np.array([chances[part].mean() for part in bins])
    return lambda seen: np.clip(means[np.searchsorted(edges, seen)], 0.01, 0.995)


@dataclass
class _Stage:
    tree: StageTree
    queue: deque[tuple[Frame, ComputeTime]] = field(default_factory=deque)
    busy: bool = False
    last_arrival: float = 0.0
    """A link keeps order."""


@dataclass(frozen=True)
class Run:
    """What came of it. `waste` are target nodes computed for nothing, for each committed token."""

    milliseconds: float
    waste: float
    session: Session


class World:
    """A session of `policy` on one lane. Milliseconds are its seconds' thousandths."""

    def __init__(
        self, policy: Lookahead, cell: Cell, acceptance: Acceptance, *, weather: Weather = CALM, lanes: int = 1, seed: int = 0
    ) -> None:
        self.now = 0.0
        self.committed_at: list[float] = []
        self._cell = cell
        self._acceptance = acceptance
        self._weather = weather
        self._chance = random.Random(seed)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._capacity = len(acceptance.ranks) + SLACK
        config = SessionConfig(self._capacity, draft_slack=SLACK, round_seconds=1e6, lanes=lanes)
        self.session = Session(policy, config)
        self._lanes: dict[LaneId, list[_Stage]] = {}
        self._right: dict[tuple[LaneId, NodeId], bool] = {}
        self._computed = 0
        self._finished = False
        self._off_the_path = itertools.cycle(acceptance.beliefs_off_the_path)

    def run(self, tokens: int, prompt: tuple[TokenId, ...] = (RIGHT,)) -> Run:
        """Answer a prompt with so many."""
        self._step(Ask(prompt, tokens))
        while not self._finished:
            self._advance()
        first, last = self.committed_at[0], self.committed_at[-1]
        per_stage = self._computed / self._cell.stages
        return Run(1000 * (last - first) / (tokens - 1), per_stage / tokens - 1, self.session)

    def _advance(self) -> None:
        deadline = self.session.deadline
        if deadline is not None and (not self._agenda or deadline < self._agenda[0][0]):
            self.now = max(self.now, deadline)
            return self._step(Tick())
        self.now, _, happen = heapq.heappop(self._agenda)
        happen()

    def _later(self, milliseconds: float, happen: Callable[[], None]) -> None:
        self._at(self.now + milliseconds / 1000, happen)

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time, next(self._order), happen))

    def _step(self, event: Event) -> None:
        for action in self.session.step(event, self.now):
            match action:
                case OpenLane():
                    self._open(LaneId(len(self._lanes)))
                case Send():
                    self._transmit(action.lane, 0, action.frame, NO_TIME)
                case Draft():
                    self._draft(action)
                case Emit():
                    self.committed_at += [self.now] * len(action.tokens)
                case Finish():
                    self._finished = True

    def _delay(self) -> float:
        return self._cell.delay * (1 + self._weather.jitter * self._chance.random())

    # -- drafter -------------------------------------------------------------------------------------------------------

    def _draft(self, draft: Draft) -> None:
        branches = self._branches(draft)
        steps = max(len(branch.tokens) for branch in branches)
        milliseconds = self._cell.draft * steps * (1 + BRANCH_SHARE * (len(draft.parents) - 1))
        self._later(milliseconds, partial(self._step, Drafted(draft.request, branches)))

    def _branches(self, draft: Draft) -> tuple[Branch, ...]:
        return tuple(branch for parent in draft.parents for branch in self._branches_after(parent, draft))

    def _branches_after(self, parent: NodeId, draft: Draft) -> list[Branch]:
        tree = self.session.tree
        below, right, position = tree[parent], True, tree[parent].position
        while right and below.position > tree.tip.position:
            right, below = below.token == RIGHT, tree[below.parent]
        if draft.candidates > 1:
            return [Branch(parent, (token,), rank) for rank, token in enumerate(self._candidates(position, right, draft))]
        chain: list[DraftedToken] = []
        while len(chain) < draft.steps and math.prod(drafted.confidence for drafted in chain) >= draft.least:
            chain.append(self._candidates(position + len(chain), right, draft)[0])
            right = right and chain[-1].token == RIGHT
        return [Branch(parent, tuple(chain))]

    def _candidates(self, position: int, right: bool, draft: Draft) -> list[DraftedToken]:
        place = position % len(self._acceptance.ranks)
        belief = self._acceptance.beliefs[place] if right else next(self._off_the_path)
        rank = self._acceptance.ranks[place] if right else 0
        confidences = [belief, *((1 - belief) * share for share in MISSES)][: draft.candidates]
        return [
            DraftedToken(RIGHT if rank == number + 1 else TokenId(1 + number), confidence)
            for number, confidence in enumerate(confidences)
        ]

    # -- stages --------------------------------------------------------------------------------------------------------

    def _open(self, lane: LaneId) -> None:
        self._lanes[lane] = [_Stage(StageTree(self._capacity)) for _ in range(self._cell.stages)]
        self._right[lane, ROOT] = True
        self._later(0.0, partial(self._step, LaneOpened(lane)))

    def _transmit(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        stage = self._lanes[lane][number]
        stage.last_arrival = max(stage.last_arrival, self.now + self._delay() / 1000)
        self._at(stage.last_arrival, partial(self._arrive, lane, number, frame, time))

    def _arrive(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        stage = self._lanes[lane][number]
        stage.tree.register(frame)
        stage.queue.append((frame, time))
        if not stage.busy:
            self._compute(lane, number)

    def _compute(self, lane: LaneId, number: int) -> None:
        """The next frame in which something is alive."""
        stage = self._lanes[lane][number]
        stage.busy = False
        while stage.queue:
            frame, time = stage.queue.popleft()
            placement = stage.tree.place(frame)
            if placement.rows.size:
                alive = Frame(tuple(frame.nodes[row] for row in placement.rows), placement.keep)
                return self._occupy(lane, number, alive, time)

    def _occupy(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        milliseconds = self._cell.launch + self._cell.node * len(frame.nodes)
        if self._chance.random() < self._weather.stragglers:
            milliseconds *= 10
        self._lanes[lane][number].busy = True
        self._computed += len(frame.nodes)
        self._later(milliseconds, partial(self._pass_on, lane, number, frame, time.plus(milliseconds / 1000)))

    def _pass_on(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        self._leave(lane, number, frame, time)
        self._compute(lane, number)

    def _leave(self, lane: LaneId, number: int, frame: Frame, time: ComputeTime) -> None:
        if number + 1 < self._cell.stages:
            self._transmit(lane, number + 1, frame, time)
        else:
            arrived = VerdictsArrived(lane, self._verdicts(lane, frame), time)
            self._later(self._delay(), partial(self._step, arrived))

    def _verdicts(self, lane: LaneId, frame: Frame) -> tuple[Verdict, ...]:
        for node in frame.nodes:
            self._right[lane, node.id] = node.token == RIGHT and self._right[lane, node.parent]
        choices = [(node, RIGHT if self._right[lane, node.id] else OFF_THE_PATH) for node in frame.nodes]
        return tuple(Verdict(node.id, choice, margin=1.0) for node, choice in choices if node.wants_verdict)


def plain(cell: Cell) -> float:
    """Milliseconds a token without drafts."""
    return cell.round_trip(1)


def best_blocking(cell: Cell, acceptance: Acceptance, *, longest: int = 24) -> tuple[float, int]:
    """Milliseconds a token of blocking speculation with its best fixed length, and that length."""
    return min((_blocking(cell, acceptance, k), k) for k in range(longest + 1))


def _blocking(cell: Cell, acceptance: Acceptance, k: int) -> float:
    place, rounds = 0, 0
    while place < len(acceptance.ranks):
        run = 0
        while run < k and place + run < len(acceptance.ranks) and acceptance.ranks[place + run] == 1:
            run += 1
        place += run + 1
        rounds += 1
    return rounds * (k * cell.draft + cell.round_trip(k + 1)) / place
