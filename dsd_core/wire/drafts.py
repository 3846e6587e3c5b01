"""Between the messages of the drafter's wire and the types of the core. Everything that comes in is checked here, once."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

from dsd_core.decoding.drafting.contexts import MAX_CANDIDATES, MAX_CONTEXTS, MAX_STEPS, Contexts, Proposal
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.prefix import common_prefix
from dsd_core.errors import ProtocolError
from dsd_core.wire.v1 import drafter_pb2

Item = TypeVar("Item")


class TrunkSender:
    """Says of a trunk what the other end does not know of it."""

    def __init__(self) -> None:
        self._sent: Sequence[TokenId] = ()

    def to_wire(
        self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0
    ) -> drafter_pb2.DraftContexts:
        keep = common_prefix(self._sent, contexts.trunk)
        self._sent = contexts.trunk
        return drafter_pb2.DraftContexts(
            keep=keep,
            trunk=contexts.trunk[keep:],
            tail_lengths=list(map(len, contexts.tails)),
            tail_tokens=[token for tail in contexts.tails for token in tail],
            steps=steps,
            candidates=candidates,
            least=least,
        )


class TrunkReceiver:
    """Puts the trunk of a session together again. `capacity` bounds it and each context."""

    def __init__(self, capacity: int, vocab_size: int) -> None:
        self._capacity = capacity
        self._vocab_size = vocab_size
        self._trunk: list[TokenId] = []

    def from_wire(self, message: drafter_pb2.DraftContexts) -> Contexts:
        """Raises ProtocolError for what no honest client asks."""
        self._check(message)
        self._trunk[message.keep :] = map(TokenId, message.trunk)
        tails = _runs(map(TokenId, message.tail_tokens), message.tail_lengths)
        return Contexts(tuple(self._trunk), tuple(tails))

    def _check(self, message: drafter_pb2.DraftContexts) -> None:
        if not 1 <= len(message.tail_lengths) <= MAX_CONTEXTS:
            raise ProtocolError(f"1 to {MAX_CONTEXTS} contexts are drafted for at once, not {len(message.tail_lengths)}")
        if not (1 <= message.steps <= MAX_STEPS and 1 <= message.candidates <= MAX_CANDIDATES):
            raise ProtocolError(f"drafts are 1 to {MAX_STEPS} steps deep and have 1 to {MAX_CANDIDATES} candidates")
        if not 0 <= message.least <= 1:
            raise ProtocolError(f"runs are drafted while they are likely to be right, and {message.least} is no likelihood")
        if message.keep > len(self._trunk):
            raise ProtocolError(f"{message.keep} committed tokens are to be kept, and {len(self._trunk)} were sent")
        longest = message.keep + len(message.trunk) + max(message.tail_lengths)
        if longest > self._capacity or sum(message.tail_lengths) != len(message.tail_tokens):
            raise ProtocolError(f"a context has {longest} tokens, or not those that it says; {self._capacity} were reserved")
        _require_tokens([*message.trunk, *message.tail_tokens], self._vocab_size)


def proposals_to_wire(proposals: Sequence[Proposal]) -> drafter_pb2.StreamDraftsResponse:
    runs = [run for proposal in proposals for run in proposal]
    drafted = [token for run in runs for token in run]
    return drafter_pb2.StreamDraftsResponse(
        runs=list(map(len, proposals)),
        run_lengths=list(map(len, runs)),
        tokens=[each.token for each in drafted],
        confidences=[each.confidence for each in drafted],
    )


def proposals_from_wire(
    message: drafter_pb2.StreamDraftsResponse, *, contexts: int, steps: int, candidates: int, vocab_size: int
) -> tuple[Proposal, ...]:
    """Raises ProtocolError for what was not asked for, tokens outside the vocabulary, and beliefs that are no probabilities."""
    if len(message.runs) != contexts or len(message.run_lengths) > contexts * candidates or max(message.runs) > candidates:
        raise ProtocolError(f"a drafter answers {len(message.runs)} contexts, not {contexts}, or with too many candidates")
    if not all(1 <= length <= steps for length in message.run_lengths):
        raise ProtocolError(f"a drafter's runs have 1 to {steps} tokens")
    tokens = sum(message.run_lengths)
    if sum(message.runs) != len(message.run_lengths) or not tokens == len(message.tokens) == len(message.confidences):
        raise ProtocolError("the columns of a drafter's answer differ in length")
    _require_tokens(message.tokens, vocab_size)
    if not all(math.isfinite(confidence) and 0 < confidence <= 1 for confidence in message.confidences):
        raise ProtocolError("a drafter's confidences are not above 0 and at most 1")
    drafted = (DraftedToken(TokenId(token), belief) for token, belief in zip(message.tokens, message.confidences, strict=True))
    return tuple(_runs(_runs(drafted, message.run_lengths), message.runs))


def _runs(items: Iterator[Item], lengths: Sequence[int]) -> Iterator[tuple[Item, ...]]:
    return (tuple(islice(items, length)) for length in lengths)


def _require_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    if tokens and max(tokens) >= vocab_size:
        raise ProtocolError(f"token {max(tokens)} is not in the vocabulary of {vocab_size}")
