"""What happens to a session, and what it then wants done."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from dsd_core.decoding.frames import NO_TIME, ComputeTime, Frame, Verdict
from dsd_core.decoding.ids import DraftId, LaneId, NodeId, TokenId


class Origin(Enum):
    """Where a committed token came from."""

    ACCEPTED = "accepted"
    """The drafter's first candidate was right."""
    RELAXED = "relaxed"
    """A draft that the target did not choose, and adaptive acceptance let stand."""
    RECOVERED = "recovered"
    """The first candidate was wrong: the target's correction, found in another branch or not."""
    BONUS = "bonus"
    """The target's token where nothing was drafted: after a fully accepted frame, and always in plain decoding."""


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    """The target ended it, or a stop text appeared."""
    LENGTH = "length"
    """As many tokens as were asked for."""
    CANCELLED = "cancelled"
    """The reader went away."""


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt: all tokens from the first. What is already committed of it is not sent again."""

    tokens: tuple[TokenId, ...]
    max_new_tokens: int
    end_tokens: frozenset[TokenId] = frozenset()


@dataclass(frozen=True, slots=True)
class DraftedToken:
    """A proposal, and the drafter's belief that the target chooses it given the ones before."""

    token: TokenId
    confidence: float


@dataclass(frozen=True, slots=True)
class Branch:
    """Consecutive proposals, the first of which follows `parent`. `rank` is its place among the candidates there."""

    parent: NodeId
    tokens: tuple[DraftedToken, ...]
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Drafted:
    """The drafter's answer to a request; no branches when it has nothing to propose."""

    request: DraftId
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class LaneOpened:
    """A lane is there, which has seen nothing. Its id was never used before."""

    lane: LaneId


@dataclass(frozen=True, slots=True)
class LaneLost:
    """A lane is gone, with all that it had been sent."""

    lane: LaneId


@dataclass(frozen=True, slots=True)
class LaneDraining:
    """A lane serves on, but will soon be gone."""

    lane: LaneId


@dataclass(frozen=True, slots=True)
class VerdictsArrived:
    """The target's choices, in any order; twice does no harm. Nodes are numbered by the lane. What a lost lane still says
    is ignored."""

    lane: LaneId
    verdicts: tuple[Verdict, ...]
    time: ComputeTime = NO_TIME
    """What the stages spent on the frame."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The answer is to end here."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Ask | Drafted | LaneOpened | LaneLost | LaneDraining | VerdictsArrived | Stop | Tick

# -- actions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """Propose up to `candidates` branches of up to `steps` tokens after each of `parents`, and answer with Drafted.

    Branches of one parent differ in their first token and are ranked from 0. All parents make one batch. What is less likely
    than `least` to be right as a whole need not go on.
    """

    request: DraftId
    parents: tuple[NodeId, ...]
    steps: int
    candidates: int = 1
    least: float = 0.0

    def answered(self, proposals: Sequence[Sequence[tuple[DraftedToken, ...]]]) -> Drafted:
        """What the drafter says: for each parent the runs that may follow, best first."""
        branches = (
            Branch(parent, run, rank)
            for parent, proposal in zip(self.parents, proposals, strict=True)
            for rank, run in enumerate(proposal)
        )
        return Drafted(self.request, tuple(branches))


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame down a lane."""

    lane: LaneId
    frame: Frame


@dataclass(frozen=True, slots=True)
class CommittedToken:
    """A token of the answer, with the verdict that made it so."""

    token: TokenId
    origin: Origin
    verdict: Verdict
    judge: LaneId | None
    """The lane that gave the verdict."""
    drift: float = 0.0
    """How far it lies behind the verdict's own choice, in nats of perturbed score."""


@dataclass(frozen=True, slots=True)
class Emit:
    """Tokens that will never change."""

    tokens: tuple[CommittedToken, ...]


@dataclass(frozen=True, slots=True)
class OpenLane:
    """One more lane is wanted. Look for it until it is found, and report LaneOpened, or give up.

    A replica is to serve beside others, and is of use only if it shares no stage with them.
    """

    replica: bool = False


@dataclass(frozen=True, slots=True)
class CloseLane:
    """A lane is no longer wanted. Nothing is sent to it any more, and nothing that it says is heard."""

    lane: LaneId


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is complete. The session can be asked again."""

    reason: FinishReason


Action = Draft | Send | Emit | OpenLane | CloseLane | Finish
