"""When to draft and what to send: a policy that is told what happened, as congestion control is.

The session is the mechanism and knows no strategy. Its laws hold under every policy: verdicts commit in order, and whatever
a policy sends goes out behind the committed tokens that the lane has not seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from dsd_core.decoding.events import Origin
from dsd_core.decoding.frames import ComputeTime
from dsd_core.decoding.ids import LaneId, NodeId, TokenId
from dsd_core.decoding.lane import Lane
from dsd_core.decoding.lookahead.line_fit import LineFit
from dsd_core.decoding.tree import TokenTree, TreeNode

FIRST_DRAFTS = 4
"""Of one frame at a time, before it is known what pays."""


@dataclass(frozen=True)
class View:
    """What a policy sees of a session."""

    tree: TokenTree
    lanes: tuple[Lane, ...]
    """Those that serve, the leading one first; never none. Lanes that stand by or catch up are not among them."""
    is_prompt: bool
    """The tip is the end of the prompt: nothing of the answer has been committed."""
    drafting: bool
    """The drafter is at work."""
    remaining: int
    """Tokens that may still be committed."""
    now: float
    capacity: int
    """Positions that the stages hold."""
    chunk: int
    """Nodes of a frame, at most: more go out as several, all of this size but the last."""

    @property
    def tip_sent(self) -> bool:
        """The leading lane has been asked what follows the tip."""
        return self.lanes[0].has_seen(self.tree.tip.id)

    def is_sent(self, node: NodeId) -> bool:
        """A lane that serves has been asked what follows the node."""
        return any(lane.has_seen(node) for lane in self.lanes)

    @property
    def deepest(self) -> int:
        """The last position whose verdict can be of use."""
        return self.tree.tip.position + self.remaining - 1

    @cached_property
    def room(self) -> int:
        """How many drafts the stages can hold beside those that they hold."""
        held = {draft for lane in self.lanes for draft in lane.drafts(self.tree)}
        return self.capacity - len(self.tree.tokens) - len(held)

    def has_room(self, drafts: int) -> bool:
        """Whether the stages can hold so many drafts beside those that they hold."""
        return drafts <= self._free or drafts <= self.room

    @property
    def _free(self) -> int:
        """The room that there would be if they held all that was drafted: told without counting."""
        return self.capacity - len(self.tree) + 1


@dataclass(frozen=True, slots=True)
class Propose:
    """Ask the drafter for up to `candidates` branches of up to `steps` tokens after each of `parents`, in one batch. What is
    less likely than `least` to be right as a whole need not go on."""

    parents: tuple[NodeId, ...]
    steps: int
    candidates: int = 1
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class Verify:
    """Send these drafts, parents first, behind whatever of the path to them the lane lacks. They want verdicts."""

    lane: LaneId
    drafts: tuple[NodeId, ...] = ()


Move = Propose | Verify


class Lookahead:
    """A policy. `moves` is asked after each event; the other methods tell it what happened."""

    wake_at: float | None = None
    """When to ask again though nothing has happened. None: not before something does."""

    def moves(self, view: View) -> Sequence[Move]:
        raise NotImplementedError

    def on_drafted(self, tokens: int, seconds: float) -> None:
        """The drafter has proposed so many tokens, so long after it was asked. It had no prompt to read."""

    def on_round_trip(self, nodes: int, seconds: float) -> None:
        """A frame of so many nodes, neither a prompt's nor one to catch up, was answered."""

    def on_verdicts(self, lane: LaneId, nodes: Sequence[NodeId | None], time: ComputeTime, now: float) -> None:
        """A lane's verdicts for these nodes came, None for what is forgotten; the stages have spent `time` on them."""

    def on_judged(self, candidates: Sequence[TreeNode], choice: TokenId) -> None:
        """The target has chosen where these, at least one, had been drafted."""

    def on_committed(self, origin: Origin) -> None:
        """One more token is there."""

    def report(self) -> Mapping[str, float]:
        """What it has found out, for statistics that say why."""
        return {}


class Plain(Lookahead):
    """`off`: one token a traversal."""

    def moves(self, view: View) -> Sequence[Move]:
        return () if view.tip_sent else (Verify(view.lanes[0].id),)


class Blocking(Lookahead):
    """`blocking`: draft, send the tip and its drafts as one frame, wait for the verdicts (Leviathan et al., arXiv 2211.17192).

    A fully accepted frame yields the bonus token: k drafts make between 1 and k + 1 tokens a round. A prompt goes out at
    once, and the drafter reads it meanwhile.
    """

    def __init__(self, length: "DraftLength", most: int | None = None) -> None:
        """No frame holds more than `most` drafts."""
        self._length = length
        self._most = most

    def moves(self, view: View) -> Sequence[Move]:
        if view.tip_sent:
            return ()
        proposal = self._proposal(view)
        if view.is_prompt:  # also to a lane that came after the first fell silent, whatever the drafter is at
            return (Verify(view.lanes[0].id), *proposal)
        if view.drafting or proposal:
            return proposal
        # Streaming that has just fallen back may find more drafts than there is room for.
        return (Verify(view.lanes[0].id, self._drafts(view)),)

    def _drafts(self, view: View) -> tuple[NodeId, ...]:
        room = view.room if self._most is None else min(view.room, self._most)
        return tuple(node.id for node in view.tree.drafts())[:room]

    def _proposal(self, view: View) -> tuple[Propose, ...]:
        tip = view.tree.tip
        if view.drafting or tip.expanded or tip.children:
            return ()
        stretch = self._length.next()
        steps = min(stretch.steps, view.remaining - 1)
        return (Propose((view.tree.tip.id,), steps, least=stretch.least),) if steps > 0 else ()

    def on_drafted(self, tokens: int, seconds: float) -> None:
        self._length.on_drafted(tokens, seconds)

    def on_round_trip(self, nodes: int, seconds: float) -> None:
        self._length.on_round_trip(nodes, seconds)

    def on_committed(self, origin: Origin) -> None:
        self._length.on_committed(origin)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What to draft before a frame: up to `steps` tokens, and none after those that are less likely than `least` to be right
    as a whole."""

    steps: int
    least: float = 0.0


class DraftLength:
    """How far to draft before the next frame. It is told what happened as a policy is."""

    def next(self) -> Stretch:
        raise NotImplementedError

    def on_drafted(self, tokens: int, seconds: float) -> None:
        pass

    def on_round_trip(self, nodes: int, seconds: float) -> None:
        pass

    def on_committed(self, origin: Origin) -> None:
        pass


@dataclass(frozen=True)
class FixedLength(DraftLength):
    """Always k tokens."""

    k: int

    def next(self) -> Stretch:
        return Stretch(self.k)


@dataclass
class AdaptiveLength(DraftLength):
    """The k that promises the least time a token, from what was measured so far:

        (k t_d + L(k + 1)) / E        E = (1 - p^(k+1)) / (1 - p), the tokens a round yields

    p starts at 0.7 with the weight of five tokens and forgets over some 64. Where no draft pays, one is still made every
    `probe_every` tokens: a drafter that is never asked can never show that it has become useful.
    """

    longest: int = 16
    probe_every: int = 32
    _draft: LineFit = field(default_factory=LineFit)
    """Of a single token."""
    _round_trip: LineFit = field(default_factory=LineFit)
    _right: float = 3.5
    _judged: float = 5.0
    _since_draft: int = 0

    def next(self) -> Stretch:
        best = min(range(self.longest + 1), key=self._seconds_a_token) if self._round_trip.weight else FIRST_DRAFTS
        return Stretch(best or int(self._since_draft >= self.probe_every))

    def on_drafted(self, tokens: int, seconds: float) -> None:
        self._since_draft = 0
        if tokens:
            self._draft.add(1, seconds / tokens)

    def on_round_trip(self, nodes: int, seconds: float) -> None:
        self._round_trip.add(nodes, seconds)

    def on_committed(self, origin: Origin) -> None:
        self._since_draft += 1
        if origin is Origin.BONUS:
            return
        self._right = self._right * (1 - 1 / 64) + (origin in (Origin.ACCEPTED, Origin.RELAXED))
        self._judged = self._judged * (1 - 1 / 64) + 1

    def _seconds_a_token(self, k: int) -> float:
        p = min(self._right / self._judged, 0.99)
        tokens = (1 - p ** (k + 1)) / (1 - p)
        return (k * self._draft.at(1) + self._round_trip.at(k + 1)) / tokens
