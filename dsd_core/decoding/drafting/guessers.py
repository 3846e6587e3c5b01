"""N-gram lookup, alone and beside a model, and what makes a drafter of whatever guesses the next token."""

from math import prod

from dsd_core.decoding.drafting.contexts import Candidates, Contexts, Guesser, Proposal
from dsd_core.decoding.drafting.hit_rates import HitRates
from dsd_core.decoding.drafting.ngram import NgramIndex
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId


class NgramGuesser:
    """Repeats what followed the last tokens before: free, and right where an answer copies its question.

    A match is believed in as often as matches of its length have been right.
    """

    def __init__(self) -> None:
        self._index = NgramIndex()
        self._rates = HitRates(prior=0.3)

    def guess(self, contexts: Contexts, count: int) -> tuple[Candidates, ...]:
        self._index.follow(contexts.trunk)
        self._rates.follow(contexts.trunk)
        return tuple(self._candidates(tail, count) for tail in contexts.tails)

    def close(self) -> None:
        pass

    def _candidates(self, tail: tuple[TokenId, ...], count: int) -> Candidates:
        """The longest match first, however the others may rate."""
        found = list(self._index.after(tail).items())[:count]
        for token, length in found:
            self._rates.guessed(length, tail, token)
        return tuple(DraftedToken(token, self._rates.of(length)) for token, length in found)


class Seconded:
    """A model, and n-gram lookup beside it (the paper's m > 2: several drafters, arXiv 2405.14105, Algorithm 1).

    What lookup finds and the model does not think of takes the place that its own record earns: how often matches of that
    length were right where the model did not have them among its candidates. Where they never are, they come last and are
    not seen; where text is copied, they come first.
    """

    def __init__(self, model: Guesser) -> None:
        self._model = model
        self._index = NgramIndex()
        self._rates = HitRates(prior=0.05)

    def guess(self, contexts: Contexts, count: int) -> tuple[Candidates, ...]:
        self._index.follow(contexts.trunk)
        self._rates.follow(contexts.trunk)
        guesses = self._model.guess(contexts, count)
        return tuple(self._merge(tail, of_model, count) for tail, of_model in zip(contexts.tails, guesses, strict=True))

    def close(self) -> None:
        self._model.close()

    def _merge(self, tail: tuple[TokenId, ...], of_model: Candidates, count: int) -> Candidates:
        found = next(iter(self._index.after(tail).items()), None)
        if found is None or not of_model or found[0] in [candidate.token for candidate in of_model]:
            return of_model
        token, length = found
        self._rates.guessed(length, tail, token)
        second = DraftedToken(token, self._rates.of(length))
        return tuple(sorted((*of_model, second), key=lambda candidate: -candidate.confidence)[:count])


class Stepwise:
    """A drafter, one guess after the other."""

    def __init__(self, guesser: Guesser) -> None:
        self._guesser = guesser

    def propose(self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0) -> tuple[Proposal, ...]:
        """The first candidate of each context goes on for up to `steps` tokens, fewer where the guesser knows no more."""
        firsts = self._guesser.guess(contexts, candidates)
        runs = [first[:1] for first in firsts]
        for _ in range(1, steps):
            if not any(run and _chance(run) >= least for run in runs):
                break
            further = self._guesser.guess(contexts.beyond(runs), 1)
            runs = [(*run, *guess) for run, guess in zip(runs, further, strict=True)]
        return tuple(_branches(run, first[1:]) for run, first in zip(runs, firsts, strict=True))

    def close(self) -> None:
        self._guesser.close()


def _chance(run: Candidates) -> float:
    """That the target chooses all of its tokens."""
    return prod(drafted.confidence for drafted in run)


def _branches(run: Candidates, others: Candidates) -> Proposal:
    return (run, *((other,) for other in others)) if run else ()
