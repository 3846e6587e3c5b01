"""Speculation that never waits (DSI, arXiv 2405.14105), with its branches in flight.

    on each event:   commit what is decided -> send what pays, when it pays -> draft on where it is likeliest to help

The drafter goes on after what it drafted (Algorithm 1, line 6), whatever is still being verified. Verifications of
successive prefixes overlap in the stages of a lane and over several lanes. A rejection needs no answer but the next frame,
which names an older parent (lines 8 - 11). With one candidate this is the paper's algorithm; with more, the siblings of a
draft are on their way before the rejection that needs them, and a hit among them costs no round trip.

Laws:
1. The tip, once unsent, is sent at once: the verification of the committed prefix is always in flight (the paper's non-SI
   thread), and progress never falls behind plain decoding.
2. Everything else waits until the slowest stage of a lane is about to be free, and until it is worth what it takes from others:
   from stages that share a machine, and from a drafter that shares the client's process. A flood of frames is the way to lose.
3. Thresholds are relative to the tip, never to the best of what waits: the best of junk would always be the best.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from dsd_core.decoding.events import Origin
from dsd_core.decoding.frames import ComputeTime
from dsd_core.decoding.ids import LaneId, NodeId, TokenId
from dsd_core.decoding.lane import Lane
from dsd_core.decoding.lookahead.estimates import Estimates
from dsd_core.decoding.lookahead.guard import Guard
from dsd_core.decoding.lookahead.pace import Pace, Passage
from dsd_core.decoding.lookahead.plan import MOST_NODES, Measurements, Plan, best_blocking, plan
from dsd_core.decoding.lookahead.policy import (
    FIRST_DRAFTS,
    Blocking,
    DraftLength,
    Lookahead,
    Move,
    Propose,
    Stretch,
    Verify,
    View,
)
from dsd_core.decoding.lookahead.prospects import Prospect, Prospects
from dsd_core.decoding.tree import TreeNode

CANDIDATES = 4
MOST_BRANCHES = 8
"""Of a draft step."""
MOST_DRAFTS = 1024
"""That a session keeps; there the drafter rests."""
NEAR_BEST = 0.3
"""A branch joins a draft step if it is at least so likely as the likeliest, relative to it."""
MOST_OF_BEST = 3
"""One frame at a time drafts so many times the best length where the drafter is sure."""
NOTHING_KNOWN = Plan(threshold=1.0, frame_nodes=1)
"""Before the first verdict: the tip alone, while the drafter goes on."""


@dataclass(slots=True)
class Experience:
    """What a session has learnt that the next one need not learn again."""

    estimates: Estimates = field(default_factory=Estimates)
    guard: Guard = field(default_factory=Guard)


class Streaming(Lookahead):
    """`streaming`. Draft trees grow best-first by joint probability, `candidates` wide at most. A frame holds up to `lookahead`
    nodes; None: as many as pay."""

    def __init__(
        self, candidates: int = CANDIDATES, lookahead: int | None = None, experience: "Experience | None" = None
    ) -> None:
        self.wake_at: float | None = None
        self._candidates = candidates
        self._lookahead = lookahead
        learnt = deepcopy(experience) or Experience()
        self._estimates = learnt.estimates
        self._measured: Measurements | None = None
        """What the plan was made for."""
        self._latest_plan = NOTHING_KNOWN
        self._has_news = True
        """Something was measured since it was made."""
        self._guard = learnt.guard
        self._guard.pause()
        frame_nodes = lookahead or MOST_NODES
        self._fallback = Blocking(_BestLength(self._estimates, frame_nodes), most=frame_nodes - 1)
        self._falls_back = False
        self._paces: defaultdict[LaneId, Pace] = defaultdict(Pace)
        self._prospects: Prospects | None = None
        self._lanes: frozenset[LaneId] = frozenset()
        self._leaving = 0
        """Nodes of the frames that are being decided on: the lanes do not have them yet."""
        self._new_tokens = 0
        self._branches = 1
        """Of the latest draft step."""
        self._drafts_overdue_at = 0.0
        """When one frame at a time goes on without what it has asked the drafter for."""

    @property
    def experience(self) -> Experience:
        """For the next session that streams over the same machines."""
        return Experience(self._estimates, self._guard)

    # -- what to do ----------------------------------------------------------------------------------------------------

    def moves(self, view: View) -> Sequence[Move]:
        self.wake_at, self._leaving = None, 0
        self._keep_promise(view)
        if self._falls_back:
            return self._one_at_a_time(view)
        prospects = self._refreshed(view)
        return [*self._verify(view, prospects), *self._propose(view, prospects)]

    def _keep_promise(self, view: View) -> None:
        """Change between streaming and one frame at a time. To fall back takes a tip without branches to get rid of: until then
        tokens tell of neither."""
        if view.is_prompt or self._guard.engaged is not self._falls_back:
            self._guard.pause()
        elif self._new_tokens:
            self._guard.on_tokens(self._new_tokens, view.now)
        self._new_tokens = 0
        if self._guard.is_due:
            expected = self._estimates.one_at_a_time()
            expected = replace(expected, acceptance=self._guard.acceptance(expected.acceptance))
            self._guard.decide(best_blocking(expected).seconds_a_token)
        self._falls_back = self._guard.engaged and (self._falls_back or not view.tree.tip.children)

    def _one_at_a_time(self, view: View) -> Sequence[Move]:
        moves = self._fallback.moves(view) or self._without_drafts(view)
        for move in moves:
            match move:
                case Verify():
                    self._note_frame(view, view.lanes[0], move.drafts)
                case Propose():
                    self._branches = 1
                    self._expect_drafts(view, move.steps)
                    self.wake_at = self._drafts_overdue_at
        return moves

    def _expect_drafts(self, view: View, steps: int) -> None:
        """Wait for twice as long as they should take, or as long as a token takes without them."""
        twice = 2 * steps * self._estimates.draft_seconds
        self._drafts_overdue_at = view.now + max(twice, self._estimates.round_trip(1))

    def _without_drafts(self, view: View) -> Sequence[Move]:
        """The tip alone, if the drafter has stalled."""
        if not view.drafting or view.tip_sent:
            return ()
        if view.now < self._drafts_overdue_at:
            self.wake_at = self._drafts_overdue_at
            return ()
        return (Verify(view.lanes[0].id),)

    @property
    def _plan(self) -> Plan:
        """Made anew when what was measured has moved, and somebody asks."""
        if self._has_news and self._estimates.known:
            self._has_news = False
            measured = self._estimates.measurements()
            if self._measured is None or measured.has_moved(self._measured):
                self._measured, self._latest_plan = measured, plan(measured)
        return self._latest_plan

    @property
    def _frame_nodes(self) -> int:
        """The most of a frame. Where frames wait for one another, what is left behind waits long: so all that pays."""
        if self._lookahead is not None:
            return self._lookahead
        return MOST_NODES if self._estimates.frames_share else self._plan.frame_nodes

    def _refreshed(self, view: View) -> Prospects:
        """What could be sent and drafted. It is told from the tree anew when a lane has come or gone with what it was sent."""
        if self._prospects is None:
            self._prospects = Prospects(view.tree, self._estimates.reliability)
        lanes = frozenset(lane.id for lane in view.lanes)
        if lanes != self._lanes:
            self._prospects.start_anew()
        self._lanes = lanes
        self._prospects.refresh()
        return self._prospects

    def _propose(self, view: View, prospects: Prospects) -> list[Propose]:
        """One batched draft step after the likeliest nodes that nothing was drafted after."""
        if view.drafting or len(view.tree) - len(view.tree.tokens) > MOST_DRAFTS:
            return []
        parents = self._batch(view, prospects)
        self._branches = len(parents)
        if not parents:
            return []
        self._expect_drafts(view, steps=1)
        return [Propose(tuple(parents), 1, self._candidates)]

    def _batch(self, view: View, prospects: Prospects) -> list[NodeId]:
        """The likeliest, and with it those from which the longer step gains more than it loses by coming later."""
        share = self._estimates.branch_share
        chances: list[float] = []
        parents: list[NodeId] = []
        enough = self._plan.first_threshold
        while len(parents) < MOST_BRANCHES:
            end = prospects.best_end(lambda node: node.expanded or node.position >= view.deepest)
            if end is None or end.probability < max(enough, share * sum(chances) / (1 + share * max(0, len(chances) - 1))):
                break
            prospects.take_end()
            parents.append(end.node.id)
            chances.append(end.probability)
            enough = max(self._plan.threshold, NEAR_BEST * chances[0])
        return parents

    def _verify(self, view: View, prospects: Prospects) -> list[Verify]:
        frames: list[Verify] = []
        if not view.is_sent(view.tree.tip.id):
            for pace in self._paces.values():
                pace.abandon(view.now)
            frames.append(self._frame(view, prospects, carries_tip=True))
        while self._may_send(view, prospects):
            frames.append(self._frame(view, prospects, carries_tip=False))
        return frames

    def _soonest(self, view: View) -> Lane:
        """The lane that is free first: for the tip an idle one, if there is one."""
        return min(view.lanes, key=lambda lane: self._paces[lane.id].free_at)

    def _may_send(self, view: View, prospects: Prospects) -> bool:
        """Whether a frame of drafts pays now. If it may pay later, `wake_at` says when."""
        best = self._best_unsent(view, prospects)
        if not self._estimates.known or best is None or best.probability < self._plan.first_threshold:
            return False
        if not view.has_room(self._leaving + 1):
            return False
        pace = self._paces[self._soonest(view).id]
        leaves_at = max(pace.free_at, pace.sent_at + self._patience(view, prospects))
        if leaves_at > view.now:
            self.wake_at = leaves_at
            return False
        due = pace.next_due(view.now)
        nodes = min(self._frame_nodes, prospects.waiting)
        # A frame that starts an instant before the verdict that voids it keeps the tip waiting for all its time.
        if due is not None and due - view.now <= (1 - self._estimates.acceptance) * self._estimates.service(nodes):
            self.wake_at = due
            return False
        return True

    def _patience(self, view: View, prospects: Prospects) -> float:
        """How long after the one before the next frame leaves, where it takes from others: until what waits has lost as much
        as they will (the rule for acknowledgements of Dooly, Goldman and Scott, JACM 2001)."""
        toll = self._estimates.toll
        return toll / max(prospects.expected(self._is_done(view)), 1e-9) if toll else 0.0

    def _frame(self, view: View, prospects: Prospects, *, carries_tip: bool) -> Verify:
        """The likeliest that wait, as many as one frame should hold."""
        lane = self._soonest(view)
        drafts: list[NodeId] = []
        enough = self._plan.threshold if carries_tip else self._plan.first_threshold
        self._leaving += carries_tip
        while len(drafts) + carries_tip < self._frame_nodes and view.has_room(self._leaving + 1):
            best = self._best_unsent(view, prospects)
            if best is None or best.probability < enough:
                break
            prospects.take_unsent()
            drafts.append(best.node.id)
            self._leaving += 1
            enough = self._plan.threshold
        self._note_frame(view, lane, drafts)
        return Verify(lane.id, tuple(drafts))

    def _best_unsent(self, view: View, prospects: Prospects) -> Prospect | None:
        return prospects.best_unsent(self._is_done(view))

    def _is_done(self, view: View) -> Callable[[TreeNode], bool]:
        """Whether a draft need not be sent."""
        tip, deepest = view.tree.tip.position, view.deepest
        return lambda node: not tip < node.position <= deepest or view.is_sent(node.id)

    # -- what happened -------------------------------------------------------------------------------------------------

    def _note_frame(self, view: View, lane: Lane, drafts: Sequence[NodeId]) -> None:
        path = [node.id for node in lane.missing_path(view.tree)]
        nodes = (*path, *(node.id for node in lane.missing_drafts(view.tree, drafts)))
        service = self._estimates.service(len(nodes))
        rest = self._estimates.round_trip(len(nodes)) - service
        is_usual = len(path) <= 1 and not view.is_prompt
        last = nodes[-1 - (len(nodes) - 1) % view.chunk :]
        self._paces[lane.id].send(Passage(frozenset(last), view.now, service, rest, is_usual))

    def on_drafted(self, tokens: int, seconds: float) -> None:
        steps = max(1, tokens) if self._falls_back else 1
        self._estimates.on_drafted(self._branches, seconds / steps, alone=self._falls_back)

    def on_verdicts(self, lane: LaneId, nodes: Sequence[NodeId | None], time: ComputeTime, now: float) -> None:
        passage = self._paces[lane].answer(nodes, now)
        if passage is not None:
            computed = len(nodes) if passage.is_usual else len(passage.nodes)
            self._estimates.on_answered(computed, now - passage.sent_at, time, is_usual=passage.is_usual)
            self._has_news = True

    def on_judged(self, candidates: Sequence[TreeNode], choice: TokenId) -> None:
        self._estimates.on_judged(candidates, choice)
        if candidates:
            self._guard.on_judged(right=any(node.rank == 0 and node.token == choice for node in candidates))

    def on_committed(self, origin: Origin) -> None:
        self._new_tokens += 1

    def report(self) -> Mapping[str, float]:
        if not self._estimates.known:
            return {}
        measured = self._estimates.measurements()
        return {
            "acceptance": measured.acceptance,
            "draft_seconds": measured.draft_seconds,
            "stage_seconds": measured.launch_seconds + measured.node_seconds,
            "node_seconds": measured.node_seconds,
            "round_trip_seconds": measured.round_trip_seconds,
            "threshold": self._plan.threshold,
            "frame_nodes": self._frame_nodes,
            "guard_engagements": self._guard.engagements,
        }


class _BestLength(DraftLength):
    """As far as pays for one frame at a time: a run ends where one more draft is not worth its time any more.

    A drafter's confidence tells runs apart that any one length takes for alike. Three times the best length is the most, and
    less where its first candidates come true less often than it promises. No frame has more than `frame_nodes`.
    """

    def __init__(self, estimates: Estimates, frame_nodes: int) -> None:
        self._estimates = estimates
        self._longest = frame_nodes - 1

    def next(self) -> Stretch:
        if not self._estimates.drafting_known:
            return Stretch(min(FIRST_DRAFTS, self._longest))
        best = best_blocking(self._estimates.one_at_a_time())
        if not best.lookahead:
            return Stretch(0)
        most = max(1.0, MOST_OF_BEST * self._estimates.reliability.of_first_candidates())
        return Stretch(min(round(most * best.lookahead), self._longest), best.least)
