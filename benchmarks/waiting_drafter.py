"""A drafter that takes its time and agrees with the waiting target as often as it is told to."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.waiting_model import Agreement, Path, WaitingModel
from benchmarks.waiting_span import wait_until
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.prefix import common_prefix
from dsd_core.decoding.target import ChoiceRule


@dataclass(frozen=True, slots=True)
class WaitingDrafts:
    """Drafts at `step_seconds` a token (t_d)."""

    model: WaitingModel
    agreement: Agreement
    step_seconds: float

    def open(self, rule: ChoiceRule, capacity: int) -> "WaitingDrafter":
        return WaitingDrafter(self)


class WaitingDrafter:
    """One session's."""

    def __init__(self, drafts: WaitingDrafts) -> None:
        self._drafts = drafts
        self._read: list[TokenId] = []
        self._paths: list[Path] = []

    def propose(self, context: Sequence[TokenId], steps: int) -> tuple[DraftedToken, ...]:
        drafts, due = self._drafts, time.perf_counter()
        path, drafted = self._path(context), []
        for _ in range(steps):
            due += drafts.step_seconds
            token, confidence = drafts.model.candidates(path, drafts.agreement, 1)[0]
            drafted.append(DraftedToken(TokenId(token), confidence))
            path = drafts.model.extend(path, token)
        wait_until(due)
        return tuple(drafted)

    def close(self) -> None:
        pass

    def _path(self, context: Sequence[TokenId]) -> Path:
        """Hashing no token twice, as no model reads one twice."""
        shared = common_prefix(self._read, context)
        path = self._paths[shared - 1] if shared else self._drafts.model.root
        del self._read[shared:], self._paths[shared:]
        for token in context[shared:]:
            path = self._drafts.model.extend(path, token)
            self._read.append(token)
            self._paths.append(path)
        return path
