"""Drafters, and where they come from."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.belief import Sharpness
from dsd_core.decoding.drafting.contexts import Contexts, Drafter, Proposal
from dsd_core.decoding.drafting.guessers import NgramGuesser, Seconded, Stepwise
from dsd_core.errors import VocabularyMismatch
from dsd_core.model.compute_thread import ComputeThread

if TYPE_CHECKING:
    from dsd_core.model.source import ModelSource
    from dsd_core.model.span import Span


class SessionDrafter(Protocol):
    """A drafter for one session, wherever it computes (decoding/drafting/contexts.py says what it is asked)."""

    @property
    def name(self) -> str:
        """What drafts, and why nothing better does."""
        ...

    @property
    def is_local(self) -> bool:
        """It computes in this process, which sends and hears frames beside."""
        ...

    async def opened(self) -> None:
        """Returns once it is known what drafts. To propose waits for that too."""
        ...

    async def propose(
        self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0
    ) -> tuple[Proposal, ...]: ...

    async def close(self) -> None:
        """Give its memory back, after what it is at work on."""
        ...


class DrafterSource(Protocol):
    """Makes a drafter for each session."""

    async def open(self, rule: ChoiceRule, capacity: int) -> SessionDrafter: ...


class LocalDrafter:
    """A drafter of this process, made when it is first asked: the first frame does not wait for its memory."""

    is_local = True

    def __init__(self, name: str, make: Callable[[], Drafter], thread: ComputeThread) -> None:
        self.name = name
        self._make = make
        self._made: Drafter | None = None
        self._thread = thread

    async def opened(self) -> None:
        """It always is."""

    async def propose(self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0) -> tuple[Proposal, ...]:
        return await self._thread.submit(
            lambda: self._drafter().propose(contexts, steps=steps, candidates=candidates, least=least)
        )

    async def close(self) -> None:
        await self._thread.submit(self._close)

    def _drafter(self) -> Drafter:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _close(self) -> None:
        if self._made is not None:
            self._made.close()


class NgramSource:
    """Drafts by n-gram lookup."""

    def __init__(self, thread: ComputeThread) -> None:
        self._thread = thread

    async def open(self, rule: ChoiceRule, capacity: int) -> LocalDrafter:
        return LocalDrafter("ngram", lambda: Stepwise(NgramGuesser()), self._thread)


class ModelSourceOfDrafts:
    """Drafts with a small model, loaded once, and n-gram lookup beside it."""

    def __init__(self, source: "ModelSource", span: "Span", thread: ComputeThread) -> None:
        self._source = source
        self._span = span
        self._thread = thread
        self._sharpness = Sharpness()

    async def open(self, rule: ChoiceRule, capacity: int) -> LocalDrafter:
        return LocalDrafter(f"{self._source.name} and ngram", lambda: self.make(rule, capacity), self._thread)

    def make(self, rule: ChoiceRule, capacity: int) -> Drafter:
        """One for a session, for the calling thread."""
        from dsd_core.model.drafter import ModelDrafter

        self._span.use_few_cores()
        model = ModelDrafter(self._span, rule, capacity, positions=self._source.max_positions, sharpness=self._sharpness)
        return Stepwise(Seconded(model))


def load_drafter(name: str, target_tokenizer: Any, target_vocab_size: int, thread: ComputeThread) -> DrafterSource:
    """`ngram`, or a model that numbers tokens as the target does. Raises VocabularyMismatch, or what loading raises."""
    if name == "ngram":
        return NgramSource(thread)
    from dsd_core.model.source import resolve
    from dsd_core.model.span import Span
    from dsd_core.model.tokenizer import load_tokenizer, vocabulary_hash

    source = resolve(name)
    same = vocabulary_hash(load_tokenizer(source)) == vocabulary_hash(target_tokenizer)
    if not same or source.vocab_size > target_vocab_size:
        raise VocabularyMismatch(
            f"the drafter {name} numbers its tokens otherwise than the target; "
            "choose a drafter of the same family, or --drafter ngram"
        )
    return ModelSourceOfDrafts(source, Span.load(source, range(source.num_layers)), thread)
