"""What travels between a client and the stages: frames of tree nodes one way, verdicts the other."""

from dataclasses import dataclass

from dsd_core.decoding.ids import NodeId, TokenId


@dataclass(frozen=True, slots=True)
class FrameNode:
    """One token of the tree, on its way to the stages."""

    id: NodeId
    parent: NodeId
    token: TokenId
    wants_verdict: bool = True


@dataclass(frozen=True, slots=True)
class Frame:
    """A few nodes sent together. `keep` is the deepest committed node, and may be one of the frame's own."""

    nodes: tuple[FrameNode, ...]
    keep: NodeId


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the target's best tokens: its log-probability and its perturbed score."""

    token: TokenId
    log_prob: float
    score: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The target's own choice for the position after `node`.

    `margin` is the lead of the choice over the runner-up in perturbed score, in nats. `top` (best first) and `entropy`
    (nats, of the distribution sampled from) are there only when the session asked for statistics.
    """

    node: NodeId
    choice: TokenId
    margin: float
    top: tuple[Candidate, ...] = ()
    entropy: float | None = None


@dataclass(frozen=True, slots=True)
class ComputeTime:
    """What the stages have spent on a frame so far: in all, and at the slowest. Seconds."""

    total: float = 0.0
    slowest: float = 0.0

    def plus(self, seconds: float) -> "ComputeTime":
        return ComputeTime(self.total + seconds, max(self.slowest, seconds))


NO_TIME = ComputeTime()
