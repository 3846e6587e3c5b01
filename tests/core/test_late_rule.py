"""The late rule over bad networks: what it forgives has its evidence, and what falls leaves no trace."""

import random

import pytest

from dsd_core.decoding.choice.acceptance import Adaptive
from dsd_core.decoding.choice.evidence import After, stands
from dsd_core.decoding.events import FinishReason, Origin
from dsd_core.decoding.frames import Candidate, FrameNode, Verdict
from dsd_core.decoding.ids import TokenId
from dsd_core.decoding.session import Session, SessionConfig
from tests.core.simulation import Answer, Tokens, ToyDrafter, ToyTarget, World
from tests.core.test_simulation import CAPACITY, ROUND_SECONDS, a_policy, next_prompt, some_weather

WINDOW = 2
BUDGET = 1.2
LEAD = 0.5
"""In which its next best lies behind the target's choice, in nats."""


@pytest.mark.parametrize(
    ("matched", "after", "found"),
    [
        (2, After.AWAITED, True),
        (1, After.AWAITED, None),
        (1, After.NOTHING, False),
        (1, After.END, True),
        (0, After.END, False),
    ],
)
def test_evidence_is_a_row_of_matches(matched: int, after: After, found: bool | None) -> None:
    assert stands(matched, after, WINDOW) is found


class TornWorld(World):
    """Its target would nearly have chosen the token after its own, which is what its drafter errs by."""

    def _verdict(self, node: FrameNode, context: Tokens) -> Verdict:
        choice = self._target.choice(context)
        top = tuple(Candidate(TokenId((choice + by) % 29), -0.7, -by * LEAD) for by in range(2))
        return Verdict(node.id, TokenId(choice), LEAD, top, 0.69)

    def _check_text(self, answer: Answer) -> None:
        """Each token is the target's after those before it, or forgiven with a row of accepted ones behind it."""
        text, reaches_end = answer.text, answer.reason is not FinishReason.CANCELLED
        for place, committed in enumerate(answer.tokens):
            choice = self._target.choice((*answer.ask.tokens, *text[:place]))
            if committed.origin is not Origin.RELAXED:
                assert committed.token == choice
                assert committed.drift == 0
                continue
            assert (committed.token, committed.drift) == ((choice + 1) % 29, LEAD)
            evidence = answer.origins[place + 1 : place + 1 + WINDOW]
            # The last token of all is nobody's draft.
            assert set(evidence[: None if place + 1 + WINDOW < len(text) else -1]) <= {Origin.ACCEPTED}
            assert evidence or not reaches_end
        assert sum(committed.drift for committed in answer.tokens) <= BUDGET
        if answer.reason is FinishReason.LENGTH:
            assert len(text) == answer.ask.max_new_tokens


def converse(seed: int) -> TornWorld:
    chance = random.Random(seed)
    target = ToyTarget(seed)
    candidates = chance.choice([1, 3])
    slack = chance.choice([0, 40]) if candidates == 1 else 40
    config = SessionConfig(
        CAPACITY + slack,
        draft_slack=slack,
        chunk=chance.choice([1, 3, 512]),
        round_seconds=ROUND_SECONDS,
        lanes=chance.choice([1, 1, 2, 3]),
        standby=chance.choice([0, 0, 1]),
    )
    rule = Adaptive(1.0, drift_budget=BUDGET, weighs_importance=False, window=WINDOW)
    drafter = ToyDrafter(target, acceptance=chance.choice([0.3, 0.7, 0.95]), candidates=candidates)
    session = Session(a_policy(chance), config, rule)
    world = TornWorld(session, target, drafter, weather=some_weather(chance), seed=seed, linear=slack == 0)
    for _ in range(chance.randint(1, 2)):
        prompt = next_prompt(tuple(session.tree.tokens), chance)
        ends = frozenset(chance.sample(range(29), chance.choice([0, 0, 3])))
        world.ask(prompt, chance.randint(0, min(CAPACITY - len(prompt), 24)), ends)
    return world


@pytest.mark.parametrize("block", range(4))
def test_what_is_forgiven_has_its_evidence_whatever_happens_on_the_way(block: int) -> None:
    relaxed = 0
    for seed in range(block * 150, (block + 1) * 150):
        try:
            relaxed += converse(seed).session.counts.relaxed
        except Exception as error:
            error.add_note(f"simulation seed {seed}")
            raise
    assert relaxed > 35, "else there was nothing to check"
