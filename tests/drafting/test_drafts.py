"""The drafter's wire: what is said arrives, and what no honest peer says is refused."""

from random import Random
from typing import Any

import pytest

from dsd_core.decoding.drafting.contexts import MAX_CONTEXTS, Contexts, Proposal
from dsd_core.decoding.events import DraftedToken
from dsd_core.decoding.ids import TokenId
from dsd_core.errors import ProtocolError
from dsd_core.wire.drafts import TrunkReceiver, TrunkSender, proposals_from_wire, proposals_to_wire
from dsd_core.wire.v1.drafter_pb2 import DraftContexts, StreamDraftsResponse


def tokens(*numbers: int) -> tuple[TokenId, ...]:
    return tuple(map(TokenId, numbers))


@pytest.mark.parametrize("seed", range(10))
def test_contexts_arrive_however_the_trunk_moves(seed: int) -> None:
    chance, sender, receiver, trunk = Random(seed), TrunkSender(), TrunkReceiver(60, 9), tokens(1)
    for _ in range(30):
        del_to = chance.randrange(len(trunk) + 1) if chance.random() < 0.3 else len(trunk)
        trunk = (*trunk[:del_to], *tokens(*chance.choices(range(9), k=chance.randrange(4))))[:50]
        tails = tuple(tokens(*chance.choices(range(9), k=chance.randrange(5))) for _ in range(chance.randint(1, 8)))
        message = sender.to_wire(Contexts(trunk, tails), steps=3, candidates=2, least=0.25)
        assert receiver.from_wire(DraftContexts.FromString(message.SerializeToString())) == Contexts(trunk, tails)
        assert (message.steps, message.candidates, message.least) == (3, 2, 0.25)


def test_a_trunk_that_grows_is_not_sent_again() -> None:
    sender = TrunkSender()
    sender.to_wire(Contexts(tokens(*range(1000)), ((),)), steps=1, candidates=4)
    message = sender.to_wire(Contexts(tokens(*range(1001)), (tokens(5, 6),)), steps=1, candidates=4)
    assert (message.keep, list(message.trunk)) == (1000, [1000])
    assert message.ByteSize() < 24


HONEST: dict[str, Any] = {"trunk": [1, 2], "tail_lengths": [0, 1], "tail_tokens": [3], "steps": 1, "candidates": 4}


@pytest.mark.parametrize(
    "change",
    [
        {"tail_lengths": [], "tail_tokens": []},
        {"tail_lengths": [0] * (MAX_CONTEXTS + 1), "tail_tokens": []},
        {"tail_lengths": [0, 2]},
        {"tail_lengths": [2**32 - 1, 1]},
        {"tail_tokens": [10]},
        {"trunk": [10]},
        {"trunk": [1] * 21},
        {"keep": 1},
        {"keep": 2**32 - 1},
        {"steps": 0},
        {"steps": 65},
        {"candidates": 0},
        {"candidates": 9},
        {"least": -0.5},
        {"least": 1.5},
        {"least": float("nan")},
    ],
    ids=str,
)
def test_contexts_that_no_honest_client_sends(change: dict[str, Any]) -> None:
    receiver = TrunkReceiver(20, vocab_size=10)
    with pytest.raises(ProtocolError):
        receiver.from_wire(DraftContexts(**HONEST | change))
    assert receiver.from_wire(DraftContexts(**HONEST)) == Contexts(tokens(1, 2), ((), tokens(3)))


def run(*drafted: tuple[int, float]) -> tuple[DraftedToken, ...]:
    return tuple(DraftedToken(TokenId(token), confidence) for token, confidence in drafted)


ASKED: dict[str, int] = {"contexts": 3, "steps": 2, "candidates": 2, "vocab_size": 10}


def test_proposals_arrive() -> None:
    proposals: tuple[Proposal, ...] = ((run((1, 0.5), (2, 1.0)), run((3, 0.25))), (), (run((9, 2.0**-40)),))
    message = StreamDraftsResponse.FromString(proposals_to_wire(proposals).SerializeToString())
    assert proposals_from_wire(message, **ASKED) == proposals


SAID: dict[str, Any] = {"runs": [1, 0, 1], "run_lengths": [2, 1], "tokens": [1, 2, 3], "confidences": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    "change",
    [
        {"runs": []},
        {"runs": [1, 1]},
        {"runs": [3, 0, 0]},
        {"runs": [1, 1, 1]},
        {"runs": [2**32 - 1, 0, 0]},
        {"run_lengths": [3, 0]},
        {"run_lengths": [3]},
        {"run_lengths": [1] * 7},
        {"run_lengths": [2]},
        {"tokens": [1, 2]},
        {"tokens": [1, 2, 10]},
        {"confidences": [0.5, 0.5]},
        {"confidences": [0.5, 0.5, 0.0]},
        {"confidences": [0.5, 0.5, 1.5]},
        {"confidences": [0.5, 0.5, -0.5]},
        {"confidences": [0.5, 0.5, float("nan")]},
        {"confidences": [0.5, 0.5, float("inf")]},
    ],
    ids=str,
)
def test_proposals_that_no_honest_drafter_makes(change: dict[str, Any]) -> None:
    proposals_from_wire(StreamDraftsResponse(**SAID), **ASKED)
    with pytest.raises(ProtocolError):
        proposals_from_wire(StreamDraftsResponse(**SAID | change), **ASKED)
