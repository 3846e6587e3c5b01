"""The session: a machine that is told what happened and answers with what to do.

              Ask                         Finish
    idle ------------> answering --------------------> idle        every Ask may name a longer, or another, prompt
                        |     ^
      LaneLost, or late |     | LaneOpened, or a late verdict      the client holds the tokens: it can rebuild any lane
                        v     |
                     without a lane

Laws:
1. A draft token commits if and only if it equals the target's own choice at its position, or the session's rule of
   acceptance, which is the exact one unless another was asked for, forgives that it does not. A late rule makes the tip
   wait for verdicts below it: nothing is committed meanwhile, so nothing is ever taken back.
2. Verdicts may arrive in any order, from any lane and more than once; tokens commit in order.
3. The tip, once unsent, goes out with the next frame. A policy may delay it only to put drafts behind it.
   A lane that was sent the tip, or a draft, was asked what follows it: any lane left can take the session further.
4. For the same state, the same event gives the same actions. Nothing here reads a clock, draws a number or logs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dsd_core.decoding.choice.acceptance import Acceptance, Exact, Forgiven
from dsd_core.decoding.choice.evidence import matches, stands
from dsd_core.decoding.events import (
    Action,
    Ask,
    Branch,
    CommittedToken,
    Draft,
    Drafted,
    Emit,
    Event,
    Finish,
    FinishReason,
    LaneDraining,
    LaneLost,
    LaneOpened,
    Origin,
    Send,
    Stop,
    Tick,
    VerdictsArrived,
)
from dsd_core.decoding.frames import ComputeTime, Frame, Verdict
from dsd_core.decoding.ids import DraftId, LaneId, NodeId, TokenId
from dsd_core.decoding.lane import FEED_LAG, Lane
from dsd_core.decoding.lanes import Lanes
from dsd_core.decoding.lookahead.policy import Lookahead, Propose, Verify, View
from dsd_core.decoding.prefix import common_prefix
from dsd_core.decoding.tree import TokenTree, TreeNode
from dsd_core.errors import PromptTooLong, UsageError

CHANCE_TO_FALL = 0.5
"""Of a forgiven draft whose evidence is awaited: what the target's own choice is worth as a branch meanwhile."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What is fixed when a session opens."""

    capacity: int
    """Positions reserved at every stage, the slack for drafts included."""
    draft_slack: int = 0
    """How many of them are there for drafts alone."""
    chunk: int = 512
    """Nodes of the longest frame, for prompts."""
    round_seconds: float = 60.0
    """How long a verdict may take at most."""
    lanes: int = 1
    """How many may serve at once."""
    standby: int = 0
    """How many more are kept warm."""
    feed: int = 64
    """Nodes of the longest frame for a lane that does not serve yet: work of others may wait for it in a stage's queue."""
    near_tie_nats: float = 1e-4
    """A choice with less margin than this might fall otherwise under another order of summation."""


@dataclass(slots=True)
class Counts:
    """What a session has done; each counter says what it counts."""

    prompt_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    recovered: int = 0
    bonus: int = 0
    frames: int = 0
    """Prompts excluded."""
    wasted: int = 0
    """Draft tokens that the stages were sent and that were not committed."""
    near_ties: int = 0
    relaxed: int = 0
    """Of the accepted, those that stand though the target chose otherwise."""
    network_seconds: float = 0.0
    """Of the rounds' time, what the stages did not compute. Rounds that overlap count each for itself."""
    reroutes: int = 0
    """How often another lane had to go on, because the leading one was lost, overdue or draining."""

    @property
    def new_tokens(self) -> int:
        return self.accepted + self.recovered + self.bonus

    def since(self, before: "Counts") -> "Counts":
        """What was counted after `before` was taken; the prompt is the latest."""
        changes = {name: getattr(self, name) - getattr(before, name) for name in self.__slots__}
        return Counts(**changes | {"prompt_tokens": self.prompt_tokens})


@dataclass(slots=True)
class _Request:
    """What the drafter is at work on."""

    id: DraftId
    parents: tuple[NodeId, ...]
    steps: int
    candidates: int
    asked_at: float
    is_prompt: bool
    """The drafter has a prompt to read first, so its time says nothing of drafting."""


@dataclass(slots=True)
class _Answer:
    """The answer under way."""

    remaining: int
    end_tokens: frozenset[TokenId]
    begun: bool = False
    """A token of it has been committed."""
    drifted: float = 0.0
    """Of the drift budget, what is spent."""
    correction: NodeId | None = None
    """The target's choice after the tip, beside a forgiven draft that waits: if that falls, nothing was lost by waiting."""
    emitted: list[CommittedToken] = field(default_factory=list)
    """Committed during this step."""


class Session:
    """One conversation with one target. Call `step` with each event, and perform the actions in order.

    `deadline` is when the next Tick is due at the latest, None while nothing is awaited from any lane.
    """

    def __init__(self, policy: Lookahead, config: SessionConfig, acceptance: Acceptance | None = None) -> None:
        self.config = config
        self.tree = TokenTree()
        self.counts = Counts()
        self._policy = policy
        self._acceptance = acceptance or Exact()
        self._lanes = Lanes(self.tree, serving=config.lanes, standby=config.standby, round_seconds=config.round_seconds)
        self._leading: Lane | None = None
        self._drafting: _Request | None = None
        self._next_draft = DraftId(1)
        self._answer: _Answer | None = None
        self._wake_at: float | None = None
        """When the policy is to be asked again at the latest."""

    @property
    def answering(self) -> bool:
        return self._answer is not None

    @property
    def leading(self) -> LaneId | None:
        """The lane that serves before all others, or did last."""
        return self._leading.id if self._leading is not None else None

    @property
    def lanes_serving(self) -> int:
        """How many lanes serve now; none while all are lost or overdue."""
        return len(self._lanes.serving())

    @property
    def deadline(self) -> float | None:
        if not self.answering:
            return None
        return min((time for time in (self._lanes.deadline, self._wake_at) if time is not None), default=None)

    def report(self) -> Mapping[str, float]:
        """What the policy has found out: statistics that say why."""
        return self._policy.report()

    def step(self, event: Event, now: float) -> list[Action]:
        """Take note of an event and return what to do. Raises PromptTooLong, UsageError or ProtocolError."""
        actions: list[Action] = []
        match event:
            case Ask():
                self._ask(event)
            case Drafted():
                self._graft(event, now)
            case VerdictsArrived():
                self._take_verdicts(event, now)
            case LaneOpened():
                self._lanes.opened(event.lane)
            case LaneLost():
                self._lanes.lost(event.lane)
            case LaneDraining():
                self._let_go(event.lane)
            case Stop():
                return self._finish(event.reason)
            case Tick():
                actions += self._lanes.mark_overdue(now) if self.answering else []
        return actions + self._proceed(now)

    # -- events --------------------------------------------------------------------------------------------------------

    def _ask(self, ask: Ask) -> None:
        if self._answer is not None:
            raise UsageError("the session is still answering; wait for its end or stop it first")
        if not ask.tokens:
            raise UsageError("the prompt is empty; write at least one token")
        if ask.max_new_tokens < 0:
            raise UsageError(f"max_new_tokens is {ask.max_new_tokens}; it must be at least 0")
        self._check_room(len(ask.tokens), ask.max_new_tokens)
        # The last token is always a new node, so that its verdict is asked for.
        shared = min(common_prefix(self.tree.tokens, ask.tokens), len(ask.tokens) - 1)
        self.tree.rewind(shared)
        for token in ask.tokens[shared:]:
            self.tree.commit(self.tree.add(self.tree.tip.id, token))
        self.counts.prompt_tokens = len(ask.tokens)
        self._await_nothing()
        self._answer = _Answer(ask.max_new_tokens, ask.end_tokens)

    def _check_room(self, prompt: int, new: int) -> None:
        room = self.config.capacity - self.config.draft_slack
        if prompt + new > room:
            raise PromptTooLong(
                f"the prompt has {prompt} tokens and the answer may have {new}, but the session reserved {room} positions; "
                "shorten the prompt, ask for fewer tokens, or open the session with a larger reservation"
            )

    def _graft(self, drafted: Drafted, now: float) -> None:
        request = self._drafting
        if request is None or drafted.request != request.id:
            return  # Asked for before the lane's answer made it pointless; the drafter could not know.
        self._drafting = None
        asked_for = (branch for branch in drafted.branches if branch.parent in request.parents)
        tokens = sum(self._add_branch(branch, request.steps) for branch in asked_for if branch.rank < request.candidates)
        for parent in request.parents:
            if parent in self.tree:
                self.tree[parent].expanded = True
        self.counts.drafted += tokens
        if not request.is_prompt:
            self._policy.on_drafted(tokens, now - request.asked_at)

    def _add_branch(self, branch: Branch, steps: int) -> int:
        """Hang a branch where it belongs, `steps` deep at most: no more was reserved. What was decided while the drafter
        was at work is compared, not added."""
        if branch.parent not in self.tree:
            return 0
        parent, added = self.tree[branch.parent], 0
        for offset, drafted in enumerate(branch.tokens[:steps]):
            node = self.tree.child(parent.id, drafted.token)
            if node is None:
                if parent.position < self.tree.tip.position:
                    break
                rank = branch.rank if offset == 0 else 0
                node = self.tree.add(parent.id, drafted.token, rank=rank, confidence=drafted.confidence)
                added += 1
            parent = node
        return added

    def _take_verdicts(self, arrived: VerdictsArrived, now: float) -> None:
        lane = self._lanes.get(arrived.lane)
        if lane is None:
            return
        nodes = [lane.node(verdict.node) for verdict in arrived.verdicts]
        told = zip(arrived.verdicts, nodes, strict=True)
        if lane.hear(verdict.node for verdict, node in told if self.tree.has_committed(node)):
            lane.overdue = False
            lane.clock.heard(now)
        self._policy.on_verdicts(lane.id, nodes, arrived.time, now)
        for verdict, node_id in zip(arrived.verdicts, nodes, strict=True):
            if node_id is None:
                continue  # The place was decided otherwise while the verdict was on its way.
            self._measure(lane, node_id, arrived.time, now)
            if node_id in self.tree and self.tree[node_id].verdict is None:
                self.tree[node_id].verdict, self.tree[node_id].judge = verdict, lane.id

    def _measure(self, lane: Lane, node: NodeId, computed: ComputeTime, now: float) -> None:
        if lane.fed == node:
            lane.fed = None
        round_trip = lane.clock.measure(node, now)
        if round_trip is not None:
            self._policy.on_round_trip(round_trip.nodes, round_trip.seconds)
            self.counts.network_seconds += max(0.0, round_trip.seconds - computed.total)

    def _let_go(self, lane_id: LaneId) -> None:
        lane = self._lanes.get(lane_id)
        if lane is not None:
            lane.draining = True

    def _await_nothing(self) -> None:
        for lane in self._lanes.all:
            lane.fed = None
            lane.clock.forget_flights()

    def _finish(self, reason: FinishReason) -> list[Action]:
        if self._answer is None:
            return []
        self._answer = None
        self._drafting = None
        self._await_nothing()
        self._count_waste(self.tree.drafts())
        return [Finish(reason)]

    # -- consequences --------------------------------------------------------------------------------------------------

    def _proceed(self, now: float) -> list[Action]:
        """Commit what can be committed, then let the policy move."""
        if self._answer is None:
            return []
        reason = self._commit_decided(self._answer)
        actions: list[Action] = []
        if self._answer.emitted:
            actions.append(Emit(tuple(self._answer.emitted)))
            self._answer.emitted.clear()
        if reason is not None:
            return actions + self._finish(reason)
        actions += self._lanes.changes()
        actions += self._move(self._answer, now)
        return actions + self._feed(now)

    def _commit_decided(self, answer: _Answer) -> FinishReason | None:
        """Follow the verdicts down from the tip: the cascade of DSI's Algorithm 1, line 13."""
        while (verdict := self.tree.tip.verdict) is not None and answer.remaining > 0:
            drafts = self._drafts(answer)
            hit = next((draft for draft in drafts if draft.token == verdict.choice), None)
            forgiven = self._acceptance.forgive(verdict, drafts, answer.drifted) if drafts and hit is None else None
            standing = self._stands(answer, forgiven)
            if standing is None:
                self._correct_ahead(answer, verdict.choice)
                return None
            self._commit(answer, verdict, drafts, hit, forgiven if standing else None)
            if self.tree.tip.token in answer.end_tokens:
                return FinishReason.STOP
        return FinishReason.LENGTH if answer.remaining == 0 else None

    def _drafts(self, answer: _Answer) -> list[TreeNode]:
        """What was drafted after the tip."""
        return [self.tree[child] for child in self.tree.tip.children if child != answer.correction]

    def _stands(self, answer: _Answer, forgiven: Forgiven | None) -> bool | None:
        """None: verdicts that are on their way will tell."""
        window, tip = self._acceptance.window, self.tree.tip
        if forgiven is None or window == 0:
            return forgiven is not None
        evidence = matches(
            self.tree,
            forgiven.node,
            # Nothing is drafted for the last token: the verdict that the answer ends with brings it.
            is_last=lambda node: node.token in answer.end_tokens or node.position + 1 >= tip.position + answer.remaining,
            is_awaited=self._lanes.are_asked,
        )
        return stands(*evidence, window)

    def _correct_ahead(self, answer: _Answer, choice: TokenId) -> None:
        """Let the target's choice go ahead as one more branch, if the stages have room for branches."""
        tip = self.tree.tip
        if self.config.draft_slack and self.tree.child(tip.id, choice) is None:
            node = self.tree.add(tip.id, choice, rank=len(tip.children), confidence=CHANCE_TO_FALL)
            answer.correction = node.id

    def _commit(
        self,
        answer: _Answer,
        verdict: Verdict,
        drafts: Sequence[TreeNode],
        hit: TreeNode | None,
        forgiven: Forgiven | None,
    ) -> None:
        tip = self.tree.tip
        origin = self._origin(drafts, hit, forgiven)
        own = self.tree.child(tip.id, verdict.choice)
        node = forgiven.node if forgiven else own or self.tree.add(tip.id, verdict.choice)
        drift = forgiven.drift if forgiven else 0.0
        if drafts:
            self._policy.on_judged(drafts, node.token)
        self._count_waste(self.tree.drafts(beside=node.id))
        self.tree.commit(node)
        for lane in self._lanes.all:
            lane.forget_dropped(self.tree)
        self._count(origin, verdict)
        self._policy.on_committed(origin)
        answer.remaining -= 1
        answer.begun = True
        answer.drifted += drift
        answer.emitted.append(CommittedToken(node.token, origin, verdict, tip.judge, drift))

    def _origin(self, drafts: Sequence[TreeNode], hit: TreeNode | None, forgiven: Forgiven | None) -> Origin:
        if forgiven is not None:
            return Origin.RELAXED
        if hit is not None and hit.rank == 0:
            return Origin.ACCEPTED
        return Origin.RECOVERED if drafts else Origin.BONUS

    def _count_waste(self, dropped: Iterable[TreeNode]) -> None:
        self.counts.wasted += sum(self._lanes.have_seen(node.id) for node in dropped)

    def _count(self, origin: Origin, verdict: Verdict) -> None:
        counts = self.counts
        match origin:
            case Origin.ACCEPTED:
                counts.accepted += 1
            case Origin.RELAXED:
                counts.accepted += 1
                counts.relaxed += 1
            case Origin.RECOVERED:
                counts.recovered += 1
            case Origin.BONUS:
                counts.bonus += 1
        counts.near_ties += verdict.margin < self.config.near_tie_nats

    def _move(self, answer: _Answer, now: float) -> list[Action]:
        lanes, actions = self._lanes.serving(), list[Action]()
        self._wake_at = None
        if not lanes:
            return actions
        self._follow(lanes[0])
        view = View(
            tree=self.tree,
            lanes=lanes,
            is_prompt=not answer.begun,
            drafting=self._drafting is not None,
            remaining=answer.remaining,
            now=now,
            capacity=self.config.capacity,
            chunk=self.config.chunk,
        )
        for move in self._policy.moves(view):
            match move:
                case Propose():
                    actions.append(self._draft(move, now, is_prompt=view.is_prompt))
                case Verify():
                    actions += self._send(move, now, is_prompt=view.is_prompt)
        self._wake_at = self._policy.wake_at
        return actions

    def _follow(self, leading: Lane) -> None:
        left = self._leading
        if left is not None and left is not leading and (left.leaves or self._lanes.get(left.id) is not left):
            self.counts.reroutes += 1
        self._leading = leading

    def _draft(self, move: Propose, now: float, *, is_prompt: bool) -> Draft:
        request = _Request(self._next_draft, move.parents, move.steps, move.candidates, now, is_prompt)
        self._next_draft = DraftId(request.id + 1)
        self._drafting = request
        return Draft(request.id, move.parents, move.steps, move.candidates, move.least)

    def _send(self, move: Verify, now: float, *, is_prompt: bool) -> list[Action]:
        """Frames for what the lane lacks of the path, the drafts in the last one. Only the tip and drafts want verdicts."""
        lane, tip = self._lanes.get(move.lane), self.tree.tip
        assert lane is not None, "a policy sends to a lane that it was shown"
        path, drafts = lane.missing_path(self.tree), lane.missing_drafts(self.tree, move.drafts)
        nodes = [(node, node.id == tip.id) for node in path] + [(node, True) for node in drafts]
        if not nodes:
            return []
        chunk = self.config.chunk
        chunks = [nodes[start : start + chunk] for start in range(0, len(nodes), chunk)]
        frames = [lane.frame(part, keep=self._keep(part, tip)) for part in chunks]
        if path:
            lane.clock.wait(now, frames_to_catch_up=len(frames) if is_prompt or len(path) >= FEED_LAG else 0)
        # A prompt's time, or that of what a lane lacks, says nothing of a round's.
        is_round = not is_prompt and len(path) <= 1
        if is_round:
            lane.clock.sent(nodes[-1][0].id, len(chunks[-1]), now)
        self.counts.frames += is_round
        return [Send(lane.id, frame) for frame in frames]

    def _feed(self, now: float) -> list[Action]:
        """Committed tokens for lanes that stand by or catch up. The last wants a verdict: it paces what they are fed, and
        shows that they live."""
        return [Send(lane.id, self._fodder(lane, now)) for lane in self._lanes.hungry()]

    def _fodder(self, lane: Lane, now: float) -> Frame:
        part = lane.missing_path(self.tree)[: min(self.config.feed, self.config.chunk)]
        last = part[-1]
        lane.fed = last.id
        lane.clock.wait(now, frames_to_catch_up=0 if lane.answered else 1)
        if lane.answered:
            lane.clock.sent(last.id, len(part), now, is_round=False)
        return lane.frame([(node, node is last) for node in part], keep=last)

    def _keep(self, part: list[tuple[TreeNode, bool]], tip: TreeNode) -> TreeNode:
        """The deepest committed node that the lane knows once it has this part."""
        committed = [node for node, _ in part if node.position <= tip.position]
        return committed[-1] if committed else tip
