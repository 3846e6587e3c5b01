"""Which layers a machine should hold: as many as fit, where the swarm lacks them most.

A session enters a stage at its first layer and leaves it after its last. So a swarm is a graph over layer boundaries, and a
stage that holds [a, b) is an edge from a to b, as wide as the frames a second that it carries:

    what the swarm can do     the greatest flow from boundary 0 to the last: the max-min of throughput, over chains
    what it lacks most        the fewest new layers over which more could flow. While a layer is uncovered nothing flows,
                              so uncovered layers come first

Layers alone would be the wrong measure: a span that no other joins covers layers and serves nobody.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dsd_core.decoding.chains.flow import Flow, Held
from dsd_core.errors import OutOfCapacity

GAIN_TO_MOVE = 4 / 3
"""A serving machine moves only if the swarm can do so many times more then: a move costs every session it holds."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes that a machine needs for parts of a model, what it promises to sessions included."""

    layers: tuple[int, ...]
    embedding: int = 0
    """For a span that starts the model."""
    head: int = 0
    """For a span that ends it."""
    is_tied: bool = False
    """Whether the head is the embedding, so that a span which starts and ends the model holds it once."""

    def span_bytes(self, span: range) -> int:
        starts, ends = span.start == 0, span.stop == len(self.layers)
        outer = self.embedding * starts + self.head * ends - self.head * (self.is_tied and starts and ends)
        return sum(self.layers[span.start : span.stop]) + outer


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine has for the swarm."""

    peer: str
    """Its id. Machines with equal choices choose differently by it."""
    memory: int
    """Bytes that it may use."""
    layer_seconds: float
    """What a frame takes in one layer."""

    def holding(self, span: range) -> Held:
        return Held(span, 1 / (self.layer_seconds * len(span)))


@dataclass(frozen=True, slots=True)
class Claim:
    """What a peer says that it holds, or, while it is joining, is about to."""

    peer: str
    held: Held
    is_joining: bool = False


def binding(claims: Iterable[Claim], peer: str, elders: frozenset[str] = frozenset()) -> list[Held]:
    """The spans that a joining peer takes as given: those served, and those that joiners before it claim.

    Before it are its elders, who had claimed when it came, and of those who choose at the same time the ones with lower
    ids. So the first keeps its choice, the next goes round it, and after as many rounds as there are joiners all stand still.
    """
    return [claim.held for claim in claims if claim.peer != peer and _binds(claim, peer, elders)]


def _binds(claim: Claim, peer: str, elders: frozenset[str]) -> bool:
    return not claim.is_joining or claim.peer in elders or claim.peer < peer


def choose_span(machine: Machine, size: ModelSize, held: Sequence[Held]) -> range:
    """The layers that a machine should load. Raises OutOfCapacity if not even one fits.

    It brings the swarm closest to carrying more; where it carries more at once, the most more. Of equals it takes the widest,
    which makes chains short, and then one by its id.
    """
    swarm = Flow(len(size.layers), held)
    before, after = swarm.holes(), swarm.holes(backward=True)

    def worth(span: range) -> tuple[int, float, int, bytes]:
        holes = min(before[len(size.layers)], before[span.start] + after[span.stop])
        gain = swarm.gain(machine.holding(span)) if holes == 0 else 0.0
        return holes, -round(gain, 9), -len(span), _lot(machine.peer, span)

    spans = list(_joining_spans(machine.memory, size, held))
    if not spans:
        needed = min(size.span_bytes(range(layer, layer + 1)) for layer in range(len(size.layers)))
        raise OutOfCapacity(
            f"a layer of the model needs {needed} bytes of memory and {machine.memory} can be used; serve a smaller model"
        )
    return min(spans, key=worth)


def better_span(machine: Machine, size: ModelSize, current: Held, others: Sequence[Held]) -> range | None:
    """The layers that a serving machine should go over to, or None as long as it does well enough where it is.

    A move uncovers no layer, and either covers one or lets the swarm do much more; so a swarm that is left alone comes to rest.
    """
    span = choose_span(machine, size, others)
    stay, move = [*others, current], [*others, machine.holding(span)]
    uncovered, uncovered_then = (uncovered_layers(len(size.layers), held) for held in (stay, move))
    if uncovered or uncovered_then:
        return span if uncovered_then < uncovered else None
    gains = throughput(len(size.layers), move) >= GAIN_TO_MOVE * throughput(len(size.layers), stay)
    return span if gains else None


def throughput(num_layers: int, held: Iterable[Held]) -> float:
    """Frames a second that all chains of a swarm carry together."""
    return Flow(num_layers, held).rate


def uncovered_layers(num_layers: int, held: Iterable[Held]) -> int:
    """How few layers would have to be added for a whole chain."""
    flow = Flow(num_layers, held)
    return 0 if flow.rate else flow.holes()[num_layers]


def _joining_spans(memory: int, size: ModelSize, held: Sequence[Held]) -> Iterator[range]:
    """The spans that fit and join on to what is there: with both ends, or with one and as wide as memory allows.

    Growing from what is there leaves no crumbs between spans, each of which would take a machine of its own.
    """
    num_layers = len(size.layers)
    arrivals = {0, *(one.span.stop for one in held)}
    departures = {num_layers, *(one.span.start for one in held)}
    fitting = {span for span in _all_spans(num_layers) if size.span_bytes(span) <= memory}
    for span in fitting:
        starts, ends = span.start in arrivals, span.stop in departures
        could_end_later = range(span.start, span.stop + 1) in fitting
        could_start_sooner = range(span.start - 1, span.stop) in fitting
        if (starts and ends) or (starts and not could_end_later) or (ends and not could_start_sooner):
            yield span


def _all_spans(num_layers: int) -> Iterator[range]:
    return (range(start, stop) for start in range(num_layers) for stop in range(start + 1, num_layers + 1))


def _lot(peer: str, span: range) -> bytes:
    """Chance that everybody draws alike."""
    return hashlib.sha256(f"{peer} {span.start}:{span.stop}".encode()).digest()
