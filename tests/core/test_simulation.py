"""Thousands of sessions over bad networks: whatever happens on the way, the text is that of plain decoding."""

import random

import numpy as np
import pytest

from dsd_core.decoding.choice.coupling import scores
from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.events import FinishReason, LaneLost, Origin, Send, VerdictsArrived
from dsd_core.decoding.lookahead.policy import AdaptiveLength, Blocking, FixedLength, Lookahead, Plain
from dsd_core.decoding.lookahead.streaming import Streaming
from dsd_core.decoding.session import Session, SessionConfig
from tests.core.simulation import Flood, Tokens, ToyDrafter, ToyTarget, Weather, World
from tests.scale import count

SEEDS = count(300, 1_000)
"""Of each of ten blocks."""
CAPACITY = 64
ROUND_SECONDS = 5.0
"""Longer than the longest prompt takes, else a lane would be replaced for ever."""


def a_policy(chance: random.Random) -> Lookahead:
    return chance.choice(
        [
            lambda: Plain(),
            lambda: Blocking(FixedLength(chance.randint(0, 6))),
            lambda: Blocking(AdaptiveLength(longest=6, probe_every=4)),
            lambda: Flood(chance, depth=chance.randint(1, 12)),
            lambda: Streaming(candidates=chance.choice([1, 4])),
            lambda: Streaming(candidates=8, lookahead=chance.choice([None, 3])),
        ]
    )()


def some_weather(chance: random.Random) -> Weather:
    def sometimes(value: float) -> float:
        return value if chance.random() < 0.4 else 0.0

    return Weather(
        latency=chance.choice([0.0001, 0.01, 0.1]),
        jitter=sometimes(chance.choice([0.005, 0.1])),
        stage_seconds=chance.choice([0.001, 0.03]),
        draft_seconds=chance.choice([0.0005, 0.02]),
        late_draft=sometimes(0.3),
        silent_draft=sometimes(0.3),
        lane_loss=sometimes(0.5),
        lane_death=sometimes(0.5),
        draining=sometimes(0.5),
        no_lanes=sometimes(0.3),
        straggling=sometimes(0.3),
        verdict_loss=sometimes(0.05),
        duplication=sometimes(0.3),
        scattered=chance.random() < 0.5,
        stop=sometimes(0.3),
    )


def a_world(seed: int) -> tuple[World, random.Random]:
    chance = random.Random(seed)
    target = ToyTarget(seed)
    candidates = chance.choice([1, 1, 3])
    drafter = ToyDrafter(target, acceptance=chance.choice([0.0, 0.3, 0.7, 0.95, 1.0]), candidates=candidates)
    slack = 0 if candidates == 1 else 40
    config = SessionConfig(
        CAPACITY + slack,
        draft_slack=slack,
        chunk=chance.choice([1, 3, 512]),
        round_seconds=ROUND_SECONDS,
        lanes=chance.choice([1, 1, 2, 3]),
        standby=chance.choice([0, 0, 1]),
        feed=chance.choice([2, 64]),
    )
    session = Session(a_policy(chance), config)
    world = World(
        session,
        target,
        drafter,
        weather=some_weather(chance),
        seed=seed,
        stages=chance.randint(1, 3),
        linear=candidates == 1,
    )
    return world, chance


def next_prompt(before: Tokens, chance: random.Random) -> Tokens:
    """Longer than what was said so far, shorter, or something else."""
    new = tuple(chance.randrange(29) for _ in range(chance.randint(1, 8)))
    match chance.choice(["extended", "extended", "truncated", "cut and extended", "unrelated"]):
        case "extended":
            prompt = (*before, *new)
        case "truncated":
            prompt = before[: chance.randint(1, len(before))] if before else new
        case "cut and extended":
            prompt = (*before[: chance.randrange(len(before) + 1)], *new)
        case _:
            prompt = new
    return prompt[: CAPACITY // 2]


def converse(seed: int) -> World:
    world, chance = a_world(seed)
    for _ in range(chance.randint(1, 3)):
        prompt = next_prompt(tuple(world.session.tree.tokens), chance)
        # To the last position sometimes: the reservation is exact.
        room = CAPACITY - len(prompt)
        new = room if chance.random() < 0.05 else chance.randint(0, min(room, 14))
        ends = frozenset(chance.sample(range(29), chance.choice([0, 0, 1, 3])))
        world.ask(prompt, new, ends)
        if chance.random() < 0.3:
            world.rest(chance.uniform(0, 1))
    return world


@pytest.mark.parametrize("block", range(10))
def test_the_text_is_that_of_plain_decoding(block: int) -> None:
    """What was emitted only grows, and is the reference in the end: so it has been a beginning of it all along."""
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        try:
            converse(seed)
        except Exception as error:
            error.add_note(f"simulation seed {seed}")
            raise


def take_overs(world: World) -> int:
    """How often a lane that had answered was lost and another, that had answered too, took the session on."""
    answered: set[int] = set()
    taken_over = 0
    for _, event, actions in world.log:
        match event:
            case VerdictsArrived():
                answered.add(event.lane)
            case LaneLost():
                taken_over += any(isinstance(action, Send) and action.lane in answered for action in actions)
    return taken_over


def test_the_simulations_meet_what_they_are_for() -> None:
    """Else a quiet change of the dice would leave the test above without teeth."""
    worlds = [converse(seed) for seed in range(300)]
    log = [entry for world in worlds for entry in world.log]
    origins = {origin for world in worlds for origin in Origin if getattr(world.session.counts, origin.value)}
    reasons = {action.reason for _, _, actions in log for action in actions if type(action).__name__ == "Finish"}
    assert origins == set(Origin) - {Origin.RELAXED}
    assert reasons == set(FinishReason)
    assert sum(world.lanes_opened for world in worlds) > 500
    assert sum(world.lanes_lost for world in worlds) > 50
    assert sum(world.lanes_drained for world in worlds) > 50
    assert sum(type(event).__name__ == "Tick" for _, event, _ in log) > 50
    assert sum(map(take_overs, worlds)) > 20
    assert sum(world.session.counts.wasted for world in worlds) > 500
    silent = [event for _, event, actions in log if type(event).__name__ == "VerdictsArrived" and not actions]
    assert len(silent) > 500, "verdicts that come late, twice or too early"


def test_the_same_seed_gives_the_same_log() -> None:
    for seed in range(40):
        assert converse(seed).log == converse(seed).log


class SampledTarget:
    """Draws with the coupled noise: its choice is a function of the tokens and of their number."""

    def __init__(self, seed: int, *, temperature: float, distortion: float = 0.0) -> None:
        self._params = SamplingParams(temperature=temperature, seed=seed, top_k=12, top_p=0.97, repetition_penalty=1.1)
        self._distortion = distortion
        self._known: dict[Tokens, int] = {}

    def choice(self, tokens: Tokens) -> int:
        if tokens not in self._known:
            self._known[tokens] = self._draw(tokens)
        return self._known[tokens]

    def _draw(self, tokens: Tokens) -> int:
        logits = np.random.default_rng(abs(hash(tokens[-3:]))).normal(scale=2, size=29)
        logits += self._distortion * np.random.default_rng(abs(hash(tokens[-2:]))).normal(size=29)
        ranked = scores(logits.astype(np.float32), np.array(tokens), self._params, position=len(tokens))
        return int(ranked.tokens[ranked.best(1)[0]])


class SampledDrafter:
    """Another model under the same noise, so that it agrees more often than not."""

    def __init__(self, model: SampledTarget) -> None:
        self._model = model

    def propose(self, tokens: Tokens, steps: int) -> list[Tokens]:
        chain = tokens
        for _ in range(steps):
            chain = (*chain, self._model.choice(chain))
        return [chain[len(tokens) :]]


def test_a_sampled_text_depends_on_the_seed_alone() -> None:
    """Not on the policy, the drafter, the chunks, the stages or the weather."""
    texts = []
    for seed in range(6):
        target = SampledTarget(seed, temperature=0.8)
        of_this_seed = set()
        for trial in range(12):
            chance = random.Random(100 * seed + trial)
            drafter = SampledDrafter(SampledTarget(seed, temperature=0.8, distortion=0.3 * (trial % 5)))
            config = SessionConfig(CAPACITY, chunk=chance.choice([2, 512]), round_seconds=ROUND_SECONDS)
            session = Session(a_policy(chance), config)
            weather = Weather(**{**vars(some_weather(chance)), "stop": 0.0})
            world = World(session, target, drafter, weather=weather, seed=trial, stages=chance.randint(1, 3))
            of_this_seed.add(tuple(world.ask((5, 6, 7), 24).text))
        assert len(of_this_seed) == 1
        texts += of_this_seed
    assert len(set(texts)) == 6
