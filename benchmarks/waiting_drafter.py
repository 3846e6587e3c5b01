"""A drafter that takes its time and agrees with the waiting target as often as it is told to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.waiting_model import Agreement, Path, WaitingModel
from benchmarks.waiting_span import wait_until
from dsd_client.drafting import LocalDrafter
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.contexts import Candidates, Contexts
from dsd_core.decoding.drafting.guessers import Stepwise
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.prefix import common_prefix
from dsd_core.model.compute_thread import ComputeThread

BRANCH_SHARE = 0.1
"""What a context more adds to a step."""


@dataclass(frozen=True, slots=True)
class WaitingDrafts:
    """Drafts at `step_seconds` a step (t_d), and a tenth more for every further context of its batch."""

    model: WaitingModel
    agreement: Agreement
    step_seconds: float

    async def open(self, rule: ChoiceRule, capacity: int) -> "WaitingDrafter":
        return WaitingDrafter(WaitingGuesser(self), ComputeThread("drafter"))


class WaitingDrafter(LocalDrafter):
    """One session's, in a thread of its own."""

    def __init__(self, guesser: "WaitingGuesser", thread: ComputeThread) -> None:
        super().__init__("waiting", lambda: Stepwise(guesser), thread)
        self._own_thread = thread

    async def close(self) -> None:
        await super().close()
        self._own_thread.close()


class WaitingGuesser:
    """Knows which of its candidates are right."""

    def __init__(self, drafts: WaitingDrafts) -> None:
        self._drafts = drafts
        self._trunk: list[TokenId] = []
        self._paths: list[Path] = []

    def guess(self, contexts: Contexts, count: int) -> tuple[Candidates, ...]:
        drafts = self._drafts
        due = time.perf_counter() + drafts.step_seconds * (1 + BRANCH_SHARE * (len(contexts.tails) - 1))
        trunk = self._follow(contexts.trunk)
        guesses = tuple(self._candidates(self._along(tail, trunk), count) for tail in contexts.tails)
        wait_until(due)
        return guesses

    def close(self) -> None:
        pass

    def _candidates(self, path: Path, count: int) -> Candidates:
        candidates = self._drafts.model.candidates(path, self._drafts.agreement, count)
        return tuple(DraftedToken(TokenId(token), confidence) for token, confidence in candidates)

    def _follow(self, trunk: Sequence[TokenId]) -> Path:
        """Hashing no token twice, as no model reads one twice."""
        shared = common_prefix(self._trunk, trunk)
        del self._trunk[shared:], self._paths[shared:]
        for token in trunk[shared:]:
            self._paths.append(self._along((token,), self._paths[-1] if self._paths else self._drafts.model.root))
            self._trunk.append(token)
        return self._paths[-1]

    def _along(self, tokens: Sequence[TokenId], path: Path) -> Path:
        for token in tokens:
            path = self._drafts.model.extend(path, token)
        return path
