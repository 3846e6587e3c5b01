"""Does streaming take the time that the law and the simulation say? Measured on waiting stages over emulated links.

    python -m benchmarks law [--kinds gpu,cpu] [--stages 1,4,8] [--delays 0,2,10,50] [--out DIR]

    law          p max(t_d, tau) + (1 - p) L     for one candidate; L is a token with speculation off, p is counted
    simulated    the real session and policy in virtual time, with the same rejections at the same places and the same L

Gaps over 15 % are marked.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from benchmarks.effort import Effort, numbers
from benchmarks.linked_swarm import TEXT_SEED, LinkedSwarm, waiting_drafts, waiting_prompts, waiting_swarm
from benchmarks.virtual_time import Acceptance, Cell, World
from benchmarks.waiting_model import Agreement, WaitingModel
from benchmarks.waiting_span import StageTime
from dsd_client.client import Client
from dsd_client.comparison import LINEAR, OFF, STREAMING, Comparison, compare
from dsd_client.comparison_report import ComparisonReport
from dsd_core.decoding.lookahead.streaming import CANDIDATES, Streaming

FRAME_MS = 5.0
STEP_MS = 2.0
KINDS = {"gpu": 1 / 20, "cpu": 1 / 2}
"""What a node of a frame takes, in parts of what the frame takes."""
CANDIDATES_OF = {LINEAR.name: 1, STREAMING.name: CANDIDATES}
GAP = 0.15


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of one mode in one cell, ms a token."""

    cell: str
    mode: str
    measured: float
    law: float | None
    """None with branches: what they save the law does not say."""
    simulated: float

    @property
    def law_gap(self) -> float | None:
        """How far the measured time is above the law, as a share of it."""
        return None if self.law is None else self.measured / self.law - 1

    @property
    def simulation_gap(self) -> float:
        return self.measured / self.simulated - 1

    @property
    def is_off(self) -> bool:
        return max(abs(self.law_gap or 0.0), abs(self.simulation_gap)) > GAP


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = Effort.parser(__doc__)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS), metavar="gpu,cpu")
    parser.add_argument("--stages", type=numbers, default=[1, 4, 8], metavar="N,...")
    parser.add_argument("--delays", type=numbers, default=[0, 2, 10, 50], metavar="MS,...", help="of one way")
    parser.add_argument("--rate", type=float, default=0.7, metavar="P", help="share of first candidates that are right")
    given = parser.parse_args(arguments)
    effort, agreement = Effort.parsed(given), Agreement(given.rate)
    report = ComparisonReport("law", "Streaming on waiting stages")
    predictions: list[Prediction] = []
    for kind in given.kinds:
        for stages in map(int, given.stages):
            async with waiting_swarm(stages, StageTime(FRAME_MS / 1e3, FRAME_MS * KINDS[kind] / 1e3)) as linked:
                for delay in given.delays:
                    name = f"{kind} N={stages} {delay:g} ms"
                    effort.note(report, name, await _measured(linked, delay, agreement, effort))
                    cell = Cell(stages, delay, STEP_MS, FRAME_MS, FRAME_MS * KINDS[kind])
                    predictions += _predictions(name, cell, report.cells[name], agreement, effort)
    report.details["predictions"] = [asdict(prediction) for prediction in predictions]
    effort.publish(report, _table(predictions))


async def _measured(linked: LinkedSwarm, delay_ms: float, agreement: Agreement, effort: Effort) -> Comparison:
    await linked.links.set_delay(delay_ms / 1e3)
    async with Client(linked.swarm.joins, drafter=waiting_drafts(agreement, STEP_MS / 1e3)) as client:
        return await compare(client, effort.plan(waiting_prompts(effort.prompts), (OFF, LINEAR, STREAMING)))


def _predictions(
    name: str, cell: Cell, measured: Comparison, agreement: Agreement, effort: Effort
) -> Iterator[Prediction]:
    traversal = measured.figures[OFF.name].ms_per_token
    # A hop of the swarm takes more than its link does: what the real L has beyond the stages' own time, shared among the hops.
    hop = max(0.0, traversal - cell.stages * (cell.launch + cell.node)) / (cell.stages + 1)
    as_measured = Cell(cell.stages, hop, cell.draft, cell.launch, cell.node)
    for mode, candidates in CANDIDATES_OF.items():
        figure = measured.figures[mode]
        law = law_ms(figure.acceptance, cell.draft, cell.launch + cell.node, traversal) if candidates == 1 else None
        runs = [simulated_ms(as_measured, text, candidates) for text in texts(agreement, effort)]
        yield Prediction(name, mode, figure.ms_per_token, law, sum(runs) / len(runs))


def law_ms(acceptance: float, draft: float, stage: float, traversal: float) -> float:
    """Design, section 1: what is accepted comes as fast as it is drafted or verified, what is not takes a round trip."""
    return acceptance * max(draft, stage) + (1 - acceptance) * traversal


def simulated_ms(cell: Cell, text: Acceptance, candidates: int) -> float:
    return World(Streaming(candidates), cell, text).run(len(text.ranks) - 1).milliseconds


def texts(agreement: Agreement, effort: Effort) -> Iterator[Acceptance]:
    """What the drafter gets right in the texts that were measured, with one place more for the simulation's prompt."""
    model = WaitingModel(TEXT_SEED, waiting_drafts(agreement, 0.0).model.vocab_size)
    for prompt in waiting_prompts(effort.prompts):
        path, ranks, beliefs, beliefs_elsewhere = model.paths(prompt)[-1], [], [], []
        for _ in range(effort.tokens + 1):
            rank, belief = agreement.at(path)
            ranks.append(0 if rank is None else rank + 1)
            beliefs.append(belief)
            beliefs_elsewhere.append(agreement.at(model.extend(path, 0))[1])
            path = model.extend(path, model.choice(path))
        yield Acceptance(ranks, beliefs, beliefs_elsewhere)


def _table(predictions: Sequence[Prediction]) -> Table:
    table = Table("", "mode", "measured", "law", "gap", "simulated", "gap", "", title=f"ms a token; * more than {GAP:.0%} off")
    for found in predictions:
        law = ("-", "-") if found.law is None else (f"{found.law:.1f}", f"{found.law_gap:+.0%}")
        simulation = (f"{found.simulated:.1f}", f"{found.simulation_gap:+.0%}", "*" if found.is_off else "")
        table.add_row(found.cell, found.mode, f"{found.measured:.1f}", *law, *simulation)
    return table


if __name__ == "__main__":
    asyncio.run(main())
