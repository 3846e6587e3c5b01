"""What happens to a session, and what it then wants done."""

from dataclasses import dataclass
from enum import Enum

from dsd_core.decoding.frames import Frame, Verdict
from dsd_core.decoding.ids import DraftId, NodeId, TokenId


class Origin(Enum):
    """Where a committed token came from."""

    ACCEPTED = "accepted"
    """The drafter's first candidate was right."""
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
class VerdictsArrived:
    """The target's choices, in any order; twice does no harm. Nodes are numbered by the present lane: what a replaced lane
    still sends must be dropped by whoever replaced it."""

    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class LaneReplaced:
    """The lane is a new one, which has seen nothing."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The answer is to end here."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Ask | Drafted | VerdictsArrived | LaneReplaced | Stop | Tick

# -- actions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Draft:
    """Propose up to `candidates` branches of up to `steps` tokens after each of `parents`, and answer with Drafted.

    Branches of one parent differ in their first token and are ranked from 0. All parents make one batch.
    """

    request: DraftId
    parents: tuple[NodeId, ...]
    steps: int
    candidates: int = 1


@dataclass(frozen=True, slots=True)
class Send:
    """Send a frame down the lane."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class CommittedToken:
    """A token of the answer, with the verdict that made it so."""

    token: TokenId
    origin: Origin
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Emit:
    """Tokens that will never change."""

    tokens: tuple[CommittedToken, ...]


@dataclass(frozen=True, slots=True)
class ReplaceLane:
    """The lane has not answered in time. Find another and report LaneReplaced, or give up."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer is complete. The session can be asked again."""

    reason: FinishReason


Action = Draft | Send | Emit | ReplaceLane | Finish
