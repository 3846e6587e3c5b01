"""What a swarm takes where all of it shares the cores of one machine, in virtual time: what more cores would bring.

    python -m benchmarks shared_cores [--file PROMPTS.jsonl] [--cores 2,4,16] [--stages N] [--delay MS]

The real session, policy and drafter, on the embedded target's own answers. Links are modelled, and computing takes what it was
measured to take on two cores. Whatever computes at the same time divides the cores evenly, and the client gets one at most,
since its loop and its drafter share an interpreter.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.effort import WIDTH, first_prompts, numbers
from benchmarks.one_machine import COSTS, OneMachine
from benchmarks.recorded import Text, recorded
from benchmarks.virtual_time import Cell
from dsd_client.drafting import ModelSourceOfDrafts
from dsd_core import embedded
from dsd_core.decoding.lookahead.estimates import Estimates
from dsd_core.decoding.lookahead.policy import Blocking, FixedLength, Lookahead
from dsd_core.decoding.lookahead.sharing import Sharing
from dsd_core.decoding.lookahead.streaming import CANDIDATES, Experience, Streaming
from dsd_core.model.compute_thread import ComputeThread
from dsd_core.model.source import resolve
from dsd_core.model.span import Span

LENGTHS = (8, 12, 16, 24)
"""Of blocking's drafts; the best is shown."""


@dataclass(frozen=True)
class Figures:
    """Of all answers of a mode, a committed token."""

    milliseconds: float
    processor: float
    """Milliseconds of a core, of all processes together."""
    frames: float


def replay(
    make: Callable[[Experience | None], Lookahead],
    cell: Cell,
    cores: float,
    texts: Sequence[Text],
    drafters: ModelSourceOfDrafts,
) -> Figures:
    """Answer all texts one after the other, by one client; the first once more before, since one that has just come has all to
    learn."""
    experience: Experience | None = None
    milliseconds = processor = frames = 0.0
    for number, text in enumerate((texts[0], *texts)):
        policy = make(experience)
        with closing(OneMachine(policy, cell, cores, text, drafters)) as world:
            run = world.run(len(text.answer), text.prompt)
        experience = policy.experience if isinstance(policy, Streaming) else None
        if number:
            milliseconds += run.milliseconds * (len(text.answer) - 1)
            processor += 1000 * world.cores.busy
            frames += run.session.counts.frames
    tokens = sum(len(text.answer) - 1 for text in texts)
    return Figures(milliseconds / tokens, processor / tokens, frames / tokens)


def _streaming(candidates: int, experience: Experience | None) -> Streaming:
    return Streaming(candidates, experience=experience or Experience(Estimates(Sharing(), Sharing())))


def _blocking(k: int, _: Experience | None) -> Blocking:
    return Blocking(FixedLength(k))


def _drafters() -> ModelSourceOfDrafts:
    """Called in this thread, not in its own."""
    source = resolve(str(embedded.DRAFTER))
    return ModelSourceOfDrafts(source, Span.load(source, range(source.num_layers)), ComputeThread("drafter"))


def _row(cores: float, cell: Cell, texts: Sequence[Text], drafters: ModelSourceOfDrafts) -> list[str]:
    def figures(make: Callable[[Experience | None], Lookahead]) -> Figures:
        return replay(make, cell, cores, texts, drafters)

    blocking, k = min((figures(partial(_blocking, k)).milliseconds, k) for k in LENGTHS)
    linear, streaming = figures(partial(_streaming, 1)), figures(partial(_streaming, CANDIDATES))
    return [
        f"{cores:g}",
        f"{blocking:.1f} ({k})",
        f"{linear.milliseconds:.1f}",
        f"{streaming.milliseconds:.1f}",
        f"{blocking / streaming.milliseconds:.2f}",
        f"{streaming.frames:.2f}",
        f"{streaming.processor:.1f}",
    ]


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="JSON lines of prompts [default: three examples]")
    parser.add_argument("--prompts", type=int, default=12, metavar="N")
    parser.add_argument("--tokens", type=int, default=96, metavar="N", help="of each answer, at most")
    parser.add_argument("--cores", type=numbers, default=[2, 4, 16], metavar="N,...")
    parser.add_argument("--stages", type=int, default=4, metavar="N")
    parser.add_argument("--delay", type=float, default=10.0, metavar="MS", help="of one way")
    given = parser.parse_args(arguments)
    prompts = first_prompts(given.file, given.prompts)
    texts, drafters = recorded(prompts, given.tokens), _drafters()
    cell = Cell(given.stages, given.delay, COSTS.draft, COSTS.launch, COSTS.node)
    table = Table("cores", "blocking (k)", "linear", "streaming", "blocking / streaming", "frames", "processor, ms")
    for cores in given.cores:
        table.add_row(*_row(cores, cell, texts, drafters))
    Console(width=WIDTH).print(table)
