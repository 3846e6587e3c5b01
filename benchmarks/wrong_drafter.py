"""A drafter that takes its time, is as sure of itself as another, and always proposes something else."""

from dataclasses import dataclass, replace

from dsd_client.drafting import DrafterSource, SessionDrafter
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.drafting.contexts import Contexts, Proposal
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId


@dataclass(frozen=True, slots=True)
class WrongDrafts:
    """Each of `right`'s tokens, one further in the vocabulary."""

    right: DrafterSource
    vocab_size: int

    async def open(self, rule: ChoiceRule, capacity: int) -> "WrongDrafter":
        return WrongDrafter(await self.right.open(rule, capacity), self.vocab_size)


@dataclass(frozen=True, slots=True)
class WrongDrafter:
    """One session's."""

    right: SessionDrafter
    vocab_size: int

    @property
    def name(self) -> str:
        return f"anything but {self.right.name}"

    @property
    def is_local(self) -> bool:
        return self.right.is_local

    async def opened(self) -> None:
        await self.right.opened()

    async def propose(
        self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0
    ) -> tuple[Proposal, ...]:
        proposals = await self.right.propose(contexts, steps=steps, candidates=candidates, least=least)
        return tuple(tuple(tuple(map(self._wrong, branch)) for branch in proposal) for proposal in proposals)

    async def close(self) -> None:
        await self.right.close()

    def _wrong(self, drafted: DraftedToken) -> DraftedToken:
        return replace(drafted, token=TokenId((drafted.token + 1) % self.vocab_size))
