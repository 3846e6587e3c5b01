"""What a session has measured of its drafter, its stages, its network and its text. Everything old fades."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from dsd_core.decoding.frames import ComputeTime
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.lookahead.line_fit import LineFit
from dsd_core.decoding.lookahead.plan import Measurements
from dsd_core.decoding.lookahead.reliability import Reliability
from dsd_core.decoding.lookahead.sharing import Sharing
from dsd_core.decoding.tree import TreeNode

_GROWTH = 0.1
"""What a node more of a frame, or a branch more of a draft step, is taken to add until sizes have differed."""
_LEAST = 1 / 64
"""No stage computes a node more in less than this share of its time for one. What is measured as less is noise."""
_KEEP = 1 - 1 / 256
_SUREST = 0.99
FIRST_FRAMES = 4
"""So many leave in a round trip until one has been answered: what a prompt took says little of a frame of drafts."""
CARRIED = 30.0
"""Tokens that lose time to a frame that is sent, where frames lose to each other. Fitted on the embedded pair (LOG.md) ..."""
DRAFTED = 0.5
"""... and those that are drafted later for it, where it keeps the drafter, as a share of the drafts that come true in a row.
Fitted likewise (benchmarks/own_machines.py)."""
LEAST_SERVICE_SECONDS = 0.001
"""No stage receives a frame, computes it and passes it on in less: one that claims to would get a frame for every draft."""
_CROWDING_WEIGHT = 1 / 16
_MOST_CROWDED = 8.0


def _line() -> LineFit:
    return LineFit(scatter=8.0)


def _lost(sharing: Sharing | None) -> float:
    return sharing.lost if sharing is not None else 0.0


class Undisturbed:
    """What takes so many seconds when nothing is in its way. Whatever is only adds: so the lower quartile of the latest 64."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=64)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self._latest.append(max(0.0, seconds))
        self.seconds = sorted(self._latest)[len(self._latest) // 4]


@dataclass(slots=True)
class Estimates:
    """Told what happened; asked for `measurements` once `known`."""

    sharing: Sharing | None = None
    """Of frames, over all stages, as if of one node; where stages are known to compute on the drafter's machine."""
    drafting: Sharing | None = None
    """Of draft steps, as if of one branch; where the drafter shares a process with what sends and hears frames."""
    reliability: Reliability = field(default_factory=Reliability)
    _draft: LineFit = field(default_factory=_line)
    """A draft step, by its branches."""
    _quiet_draft: Undisturbed = field(default_factory=Undisturbed)
    """The same for one branch, when nothing else asks for the drafter's machine."""
    _has_drafted_alone: bool = False
    """While no frame was under way: then that alone is quiet."""
    _slowest: LineFit = field(default_factory=_line)
    """A frame at the slowest stage, by its nodes."""
    _compute: LineFit = field(default_factory=_line)
    """The same over all stages."""
    _transit: Undisturbed = field(default_factory=Undisturbed)
    """What a frame spends outside of computing, on links."""
    _crowding: float = 0.0
    """How many services of the slowest stage a frame waits for others, on average: what stages say of their own computing
    leaves out the machine that they share, and all that handles a frame beside."""
    _drafts_a_frame: float = 0.0
    """Draft steps from one frame's verdicts to the next's, on average."""
    _new_drafts: int = 0
    """Draft steps since the last verdicts."""
    _known: bool = False
    _right: float = 2.1
    _judged: float = 3.0

    @property
    def known(self) -> bool:
        """A frame has been answered."""
        return self._known

    @property
    def drafting_known(self) -> bool:
        """A draft step has been timed."""
        return self._draft.weight > 0

    @property
    def acceptance(self) -> float:
        """p, which starts at 0.7 with the weight of three tokens: a short answer must find a useless drafter out."""
        return min(self._right / self._judged, _SUREST)

    @property
    def branch_share(self) -> float:
        """What a branch more adds to a draft step, as a share of a step for one."""
        step = self._draft.at(1)
        return self._draft.slope / step if step > 0 else _GROWTH

    def service(self, nodes: int) -> float:
        """Seconds of a frame at the slowest stage, others that crowd it included; a careful guess before one was answered."""
        seconds = max(self._slowest.at(nodes) * (1 + self._crowding), LEAST_SERVICE_SECONDS)
        return seconds if self._slowest.weight else max(seconds, self.round_trip(1) / FIRST_FRAMES)

    @property
    def frames_share(self) -> bool:
        """Frames lose time to each other."""
        return _lost(self.sharing) > 0

    @property
    def toll(self) -> float:
        """What a frame takes from others: their tokens, times the seconds by which these come later."""
        in_a_row = self.acceptance / (1 - self.acceptance)
        return CARRIED * _lost(self.sharing) + DRAFTED * in_a_row * self._drafts_a_frame * _lost(self.drafting)

    def round_trip(self, nodes: int) -> float:
        """Seconds of a frame that meets no other."""
        return self._transit.seconds + self._compute.at(nodes)

    @property
    def draft_seconds(self) -> float:
        """Of a step for one branch."""
        return self._draft.at(1)

    def measurements(self) -> Measurements:
        return self._measured(self.draft_seconds)

    def one_at_a_time(self) -> Measurements:
        """What may be expected where drafter and stages take turns, and so never share a machine at the same moment."""
        return self._measured(min(self._quiet_draft.seconds or math.inf, self.draft_seconds))

    def _measured(self, draft_seconds: float) -> Measurements:
        slowest, together = self._slowest.at(1), self._compute.at(1)
        node = max(self._slowest.slope, _LEAST * slowest)
        return Measurements(
            acceptance=self.acceptance,
            draft_seconds=draft_seconds,
            launch_seconds=max(0.0, slowest - node),
            node_seconds=node,
            pipeline_node_seconds=max(self._compute.slope, _LEAST * together, node),
            round_trip_seconds=self.round_trip(1),
        )

    def on_drafted(self, branches: int, seconds: float, *, alone: bool = False) -> None:
        """A draft step took so long; `alone`, while the stages waited for it."""
        if not self._draft.weight:
            self._draft.assume(branches, seconds, _GROWTH)
        self._draft.add(branches, seconds)
        if alone and not self._has_drafted_alone:
            self._has_drafted_alone, self._quiet_draft = True, Undisturbed()
        of_one = seconds * self._draft.at(1) / self._draft.at(branches) if self._draft.at(branches) > 0 else seconds
        if alone == self._has_drafted_alone:
            self._quiet_draft.add(of_one)
        if not alone and self.drafting is not None:
            self._new_drafts += 1
            self.drafting.add(of_one)

    def on_answered(self, nodes: int, seconds: float, time: ComputeTime, *, is_usual: bool) -> None:
        """Verdicts for so many nodes of a frame came `seconds` after it was sent.

        A prompt's frame is not usual: of another size, and the first of all, when nothing is warm. It gives a first guess, and
        bounds what a node costs: small frames in a busy moment, all of much the same size, can say anything about that.
        """
        fits = (self._slowest, time.slowest), (self._compute, time.total)
        for fit, spent in fits:
            fit.bound(nodes, spent)
        if not is_usual and self._known:
            return
        self._known = True
        self._transit.add(seconds - time.total)
        if is_usual and time.slowest > 0:
            waited = (seconds - time.total - self._transit.seconds) / time.slowest
            self._crowding += _CROWDING_WEIGHT * (min(max(waited, 0.0), _MOST_CROWDED) - self._crowding)
        for fit, spent in fits:
            if not fit.weight:
                fit.assume(nodes, spent, _GROWTH)
            if is_usual:
                fit.add(nodes, spent)
        self._drafts_a_frame += _CROWDING_WEIGHT * (self._new_drafts - self._drafts_a_frame)
        self._new_drafts = 0
        if is_usual and self.sharing is not None:
            self.sharing.add(time.total - self._compute.slope * (nodes - 1))

    def on_judged(self, candidates: Sequence[TreeNode], choice: TokenId) -> None:
        """The target has chosen where these had been drafted."""
        for node in candidates:
            self.reliability.judge(node.rank, node.confidence, right=node.token == choice)
        if candidates:
            first_was_right = any(node.rank == 0 and node.token == choice for node in candidates)
            self._right = _KEEP * self._right + first_was_right
            self._judged = _KEEP * self._judged + 1
