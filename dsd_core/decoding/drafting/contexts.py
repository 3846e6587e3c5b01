"""What a drafter is asked: which tokens may follow, at several places of a session's tree at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId

MAX_CONTEXTS = 8
MAX_CANDIDATES = 8
MAX_STEPS = 64

Candidates = tuple[DraftedToken, ...]
"""Different tokens for one position, best first."""

Proposal = tuple[tuple[DraftedToken, ...], ...]
"""What may follow one context: runs of consecutive tokens that begin differently, best first; none where there is no idea."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """The committed tokens, and for each place below them the drafts that lead there.

    What is committed is said once, so that asking costs little however long it is, and a drafter knows what to forget:
    all that does not begin with it.
    """

    trunk: Sequence[TokenId]
    tails: tuple[tuple[TokenId, ...], ...]

    @classmethod
    def after(cls, *tokens: TokenId) -> "Contexts":
        """A single place, after these tokens."""
        return cls(tokens, ((),))

    def beyond(self, runs: Sequence[Candidates]) -> "Contexts":
        """The places that a run of drafts leads to from each of these."""
        further = ((*tail, *(drafted.token for drafted in run)) for tail, run in zip(self.tails, runs, strict=True))
        return Contexts(self.trunk, tuple(further))


class Drafter(Protocol):
    """Proposes tokens for one session. A confidence is the belief that the target chooses the token, given those before.

    Not thread-safe; call `close` to give its memory back.
    """

    def propose(self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0) -> tuple[Proposal, ...]:
        """For each context up to `candidates` runs, the first of up to `steps` tokens, the others of one.

        First runs grow while one of them is at least so likely to be right as a whole as `least`.
        """
        ...

    def close(self) -> None: ...


class Guesser(Protocol):
    """A drafter's eye for the next token alone."""

    def guess(self, contexts: Contexts, count: int) -> tuple[Candidates, ...]:
        """For each context up to `count` candidates."""
        ...

    def close(self) -> None: ...
