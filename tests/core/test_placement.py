"""Machines that join a swarm, one after another or all at once, and that move when it shifts."""

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsd_core.decoding.chains.flow import Held
from dsd_core.decoding.chains.placement import (
    Claim,
    Machine,
    ModelSize,
    better_span,
    binding,
    choose_span,
    throughput,
    uncovered_layers,
)
from dsd_core.errors import OutOfCapacity


def plain(layers: int) -> ModelSize:
    return ModelSize((1,) * layers)


def machine(memory: int, peer: str = "me", layer_seconds: float = 1.0) -> Machine:
    return Machine(peer, memory, layer_seconds)


def held(*spans: tuple[int, int]) -> list[Held]:
    """At one second a layer."""
    return [Held(range(start, stop), 1 / (stop - start)) for start, stop in spans]


def fitting(one: Machine, size: ModelSize) -> list[range]:
    cuts = itertools.combinations(range(len(size.layers) + 1), 2)
    return [range(*ends) for ends in cuts if size.span_bytes(range(*ends)) <= one.memory]


def fewest_layers(one: Machine, size: ModelSize) -> int:
    """How many layers fit wherever the machine may be sent."""
    fits = fitting(one, size)
    return min(max((len(span) for span in fits if layer in span), default=0) for layer in range(len(size.layers)))


# -- a single choice ---------------------------------------------------------------------------------------------------


def test_the_first_machine_takes_the_whole_model_if_it_can() -> None:
    assert choose_span(machine(8), plain(8), []) == range(8)


def test_the_first_machine_takes_one_of_the_ends_if_it_cannot() -> None:
    assert choose_span(machine(3), plain(8), []) in (range(3), range(5, 8))


def test_simultaneous_joiners_spread_by_their_ids() -> None:
    chosen = {choose_span(machine(3, f"peer {number}"), plain(8), []) for number in range(20)}
    assert chosen == {range(3), range(5, 8)}


def test_uncovered_layers_come_first() -> None:
    assert choose_span(machine(3), plain(8), held((0, 4), (6, 8), (6, 8))) == range(4, 6)


def test_among_equals_the_widest_makes_the_shorter_chain() -> None:
    assert choose_span(machine(8), plain(8), held((0, 4), (6, 8))) == range(4, 8)


def test_two_gaps_are_closed_by_one_machine_if_it_can() -> None:
    assert choose_span(machine(6), plain(8), held((0, 2), (4, 6))) == range(2, 8)


def test_the_narrowest_place_is_widened() -> None:
    assert choose_span(machine(4), plain(8), held((0, 4), (4, 8), (4, 8))) == range(4)


def test_where_one_machine_cannot_widen_it_begins_a_second_chain() -> None:
    assert choose_span(machine(3), plain(8), held((0, 8))) in (range(3), range(5, 8))
    assert choose_span(machine(5), plain(8), held((0, 8), (0, 3))) == range(3, 8)


def test_a_span_that_joins_nothing_is_of_no_use() -> None:
    """Layers 0 to 3 are covered, but by nobody from whom one could go on at layer 4."""
    assert choose_span(machine(4), plain(8), held((0, 5), (4, 8))) in (range(4), range(5, 8))


def test_the_ends_weigh_more() -> None:
    size = ModelSize((10,) * 6, embedding=20, head=20)
    assert choose_span(machine(39), size, held((1, 6))) == range(1)
    assert choose_span(machine(40), size, held((2, 6))) == range(2)
    assert choose_span(machine(39), size, held((2, 6))) in (range(1), range(1, 2))


def test_a_tied_head_is_held_once() -> None:
    size = ModelSize((10, 10), embedding=5, head=5, is_tied=True)
    assert (size.span_bytes(range(2)), size.span_bytes(range(1, 2))) == (25, 15)


def test_a_machine_too_small_for_a_layer_is_refused() -> None:
    with pytest.raises(OutOfCapacity, match="needs 10 bytes of memory and 9"):
        choose_span(machine(9), ModelSize((10, 10)), [])


# -- many machines -----------------------------------------------------------------------------------------------------


@st.composite
def models(draw: st.DrawFn) -> ModelSize:
    layers = draw(st.lists(st.integers(8, 12), min_size=1, max_size=12))
    return ModelSize(tuple(layers), embedding=draw(st.integers(0, 20)), head=draw(st.integers(0, 20)))


@st.composite
def crowds(draw: st.DrawFn) -> tuple[ModelSize, list[Machine]]:
    """A model, and just as many machines as it takes to hold it however they come to lie."""
    size = draw(models())
    machines: list[Machine] = []
    while sum(fewest_layers(one, size) for one in machines) < len(size.layers):
        seconds = draw(st.sampled_from([0.001, 0.002, 0.01]))
        machines.append(Machine(f"peer {draw(st.integers(0, 1 << 30))} {len(machines)}", draw(st.integers(52, 200)), seconds))
    return size, machines


def one_after_another(size: ModelSize, machines: Sequence[Machine]) -> list[Held]:
    swarm: list[Held] = []
    for one in machines:
        swarm.append(one.holding(choose_span(one, size, swarm)))
    return swarm


def all_at_once(size: ModelSize, machines: Sequence[Machine]) -> list[Held]:
    """In each round everybody hears what all others claimed in the last, and chooses anew; until nobody changes."""
    claims: dict[str, Claim] = {}
    for _ in range(len(machines) + 1):
        heard = list(claims.values())
        chosen = {one.peer: choose_span(one, size, binding(heard, one.peer)) for one in machines}
        claimed = {one.peer: Claim(one.peer, one.holding(chosen[one.peer]), is_joining=True) for one in machines}
        if claimed == claims:
            return [claim.held for claim in claims.values()]
        claims = claimed
    raise AssertionError("they did not come to rest in as many rounds as there are machines")


@given(crowds())
def test_machines_that_join_one_after_another_cover_the_model(crowd: tuple[ModelSize, list[Machine]]) -> None:
    size, machines = crowd
    assert uncovered_layers(len(size.layers), one_after_another(size, machines)) == 0


@given(crowds())
def test_machines_that_join_all_at_once_cover_the_model(crowd: tuple[ModelSize, list[Machine]]) -> None:
    size, machines = crowd
    assert uncovered_layers(len(size.layers), all_at_once(size, machines)) == 0


def test_a_joiner_takes_its_elders_and_those_before_it_as_given() -> None:
    claims = [Claim(peer, held(span)[0], joining) for peer, span, joining in [
        ("a", (0, 1), True), ("b", (1, 2), True), ("c", (2, 3), True), ("d", (3, 4), True), ("e", (4, 5), False),
    ]]  # fmt: skip
    assert binding(claims, "b", elders=frozenset("d")) == held((0, 1), (3, 4), (4, 5))


# -- moves -------------------------------------------------------------------------------------------------------------


def moves_until_rest(size: ModelSize, machines: Sequence[Machine], spans: list[range]) -> Iterator[list[Held]]:
    """The swarm after each move, machines looking about in turn; ends when none of them wants to move."""
    resting = 0
    for turn in itertools.cycle(range(len(machines))):
        swarm = [one.holding(span) for one, span in zip(machines, spans, strict=True)]
        others = swarm[:turn] + swarm[turn + 1 :]
        span = better_span(machines[turn], size, swarm[turn], others)
        resting = resting + 1 if span is None else 0
        if resting == len(machines):
            return
        if span is not None:
            spans[turn] = span
            yield [*others, machines[turn].holding(span)]


def test_a_machine_goes_where_it_is_needed() -> None:
    assert better_span(machine(4), plain(8), held((0, 4))[0], held((0, 4))) == range(4, 8)


def test_a_small_gain_moves_nobody() -> None:
    """Of three machines on the first half one could go over, and the swarm would do as much as before."""
    assert better_span(machine(4), plain(8), held((0, 4))[0], held((0, 4), (4, 8))) is None
    assert better_span(machine(4), plain(8), held((0, 4))[0], held((0, 4), (0, 4), (4, 8))) == range(4, 8)


def test_a_machine_that_alone_covers_layers_stays() -> None:
    assert better_span(machine(4), plain(8), held((0, 4))[0], held((4, 8), (4, 8), (4, 8))) is None


@settings(max_examples=60)
@given(crowds(), st.randoms(use_true_random=False))
def test_a_swarm_comes_to_rest_and_no_move_makes_it_worse(
    crowd: tuple[ModelSize, list[Machine]], chance: random.Random
) -> None:
    """From wherever the machines are, as after others have left."""
    size, machines = crowd
    spans = [chance.choice(fitting(one, size)) for one in machines]
    swarm = [one.holding(span) for one, span in zip(machines, spans, strict=True)]
    worth = uncovered_layers(len(size.layers), swarm), throughput(len(size.layers), swarm)
    for after in itertools.islice(moves_until_rest(size, machines, spans), 200):
        uncovered, rate = uncovered_layers(len(size.layers), after), throughput(len(size.layers), after)
        assert uncovered < worth[0] or (uncovered == 0 and rate > 1.3 * worth[1])
        worth = uncovered, rate
    assert [*itertools.islice(moves_until_rest(size, machines, spans), 1)] == []


def settled(size: ModelSize, machines: Sequence[Machine]) -> float:
    """What a swarm does whose machines joined one after another and then moved until they came to rest."""
    spans: list[range] = []
    for one in machines:
        swarm = [other.holding(span) for other, span in zip(machines, spans, strict=False)]
        spans.append(choose_span(one, size, swarm))
    for _ in moves_until_rest(size, machines, spans):
        pass
    return throughput(len(size.layers), [one.holding(span) for one, span in zip(machines, spans, strict=True)])


def best(size: ModelSize, machines: Sequence[Machine]) -> float:
    """What it could do, every placement tried."""
    placements = itertools.product(*(fitting(one, size) for one in machines))
    holding = ([one.holding(span) for one, span in zip(machines, spans, strict=True)] for spans in placements)
    return max(throughput(len(size.layers), swarm) for swarm in holding)


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_machines_alike_in_speed_reach_half_of_the_best_placement(layers: int) -> None:
    """All memories of up to three machines."""
    for count in (1, 2, 3):
        for memories in itertools.combinations_with_replacement(range(1, layers + 1), count):
            machines = [machine(memory, f"peer {number}") for number, memory in enumerate(memories)]
            assert settled(plain(layers), machines) >= 0.5 * best(plain(layers), machines)


@pytest.mark.parametrize("seed", range(20))
def test_machines_eight_times_apart_reach_a_quarter_of_the_best_placement(seed: int) -> None:
    chance = random.Random(seed)
    layers = chance.randrange(2, 5)
    machines = [machine(chance.randrange(1, layers + 1), f"peer {n}", chance.choice([0.125, 0.25, 0.5, 1.0])) for n in range(3)]
    assert settled(plain(layers), machines) >= 0.25 * best(plain(layers), machines)
