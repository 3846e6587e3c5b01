"""Drafters, and the thread that they compute in."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from dsd_core.decoding import ngram
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.target import ChoiceRule
from dsd_core.errors import UsageError, VocabularyMismatch

if TYPE_CHECKING:
    from dsd_core.model.span import Span


class Drafter(Protocol):
    """Proposes tokens for one session. Confidence is the belief that the target chooses the token, given those before."""

    def propose(self, context: Sequence[TokenId], steps: int) -> tuple[DraftedToken, ...]: ...

    def close(self) -> None: ...


class NgramDrafter:
    """Repeats what followed the last tokens before: free, and right where an answer copies its question."""

    def propose(self, context: Sequence[TokenId], steps: int) -> tuple[DraftedToken, ...]:
        return ngram.propose(context, steps)

    def close(self) -> None:
        pass


class DrafterSource(Protocol):
    """Makes a drafter for each session."""

    def open(self, rule: ChoiceRule, capacity: int) -> Drafter: ...


class NgramSource:
    """Drafts by n-gram lookup."""

    def open(self, rule: ChoiceRule, capacity: int) -> Drafter:
        return NgramDrafter()


class ModelSourceOfDrafts:
    """Drafts with a small model, loaded once."""

    def __init__(self, span: "Span", max_positions: int) -> None:
        self._span = span
        self._max_positions = max_positions

    def open(self, rule: ChoiceRule, capacity: int) -> Drafter:
        from dsd_core.model.drafter import ModelDrafter

        return ModelDrafter(self._span, rule, min(capacity, self._max_positions))


def load_drafter(name: str, target_tokenizer: Any, target_vocab_size: int) -> DrafterSource:
    """`ngram`, or a model that numbers tokens as the target does. Raises VocabularyMismatch, or what loading raises."""
    if name == "ngram":
        return NgramSource()
    if name == "swarm":
        raise UsageError("no peer of the swarm offers a drafter yet; use a model, ngram or none")
    from dsd_core.model.source import resolve
    from dsd_core.model.span import Span
    from dsd_core.model.tokenizer import load_tokenizer

    source = resolve(name)
    if load_tokenizer(source).get_vocab() != target_tokenizer.get_vocab() or source.vocab_size > target_vocab_size:
        raise VocabularyMismatch(
            f"the drafter {name} numbers its tokens otherwise than the target; "
            "choose a drafter of the same family, or --drafter ngram"
        )
    return ModelSourceOfDrafts(Span.load(source, range(source.num_layers)), source.max_positions)


class DraftThread:
    """Where drafters compute, so that the event loop does not."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drafter")

    async def propose(self, drafter: Drafter, context: Sequence[TokenId], steps: int) -> tuple[DraftedToken, ...]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, drafter.propose, context, steps)

    async def open(self, source: DrafterSource, rule: ChoiceRule, capacity: int) -> Drafter:
        return await asyncio.get_running_loop().run_in_executor(self._thread, source.open, rule, capacity)

    async def release(self, drafter: Drafter) -> None:
        """Give its memory back, after what it is at work on."""
        await asyncio.get_running_loop().run_in_executor(self._thread, drafter.close)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
