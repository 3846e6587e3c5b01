"""Table 1 of the DSI paper (arXiv 2405.14105), all ten rows, with node processes and sockets where the paper simulates.

    python -m benchmarks table1 [--rows 1,3] [--lanes 7] [--out DIR]

Targets and drafters wait the row's latencies, the first candidate is right at the row's rate, each position alike. DSI is
linear streaming over `--lanes` copies of the target, one node each, on loopback without delay.

SI is charged twice. Clean: its bonus and correction tokens, its best k. As the authors' simulator charges it (read in their
code): one more target forward for each rejection, and only accepted drafts count as tokens, for DSI as well.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from benchmarks.effort import Effort, numbers
from benchmarks.linked_swarm import waiting_drafts, waiting_prompts, waiting_swarm
from benchmarks.waiting_model import Agreement
from benchmarks.waiting_span import StageTime
from dsd_client.client import Client
from dsd_client.comparison import BLOCKING, OFF, STREAMING, Comparison, Mode, compare
from dsd_client.comparison_report import ComparisonReport

LANES = 7


@dataclass(frozen=True, slots=True)
class Row:
    """What the paper gives, and what a simulation of seven lanes makes of it."""

    models: str
    data: str
    target_ms: float
    drafter_ms: float
    rate: float
    published: float
    """SI / DSI."""
    simulated: float
    """The same against a clean SI, with greedy lookahead."""

    @property
    def name(self) -> str:
        return f"{self.models}, {self.data}"

    @property
    def bound_ms(self) -> float:
        """Proposition 1, a token."""
        return self.rate * self.drafter_ms + (1 - self.rate) * self.target_ms


ROWS = (
    Row("Vicuna-13B", "CNN-DM", 37.7, 2.5, 0.63, 1.47, 1.17),
    Row("Vicuna-13B", "Alpaca", 33.3, 2.5, 0.58, 1.41, 1.20),
    Row("Vicuna-7B", "CNN-DM", 29.4, 2.5, 0.67, 1.29, 1.27),
    Row("Vicuna-7B", "Alpaca", 26.0, 2.5, 0.59, 1.70, 1.22),
    Row("StarCoder", "HumanEval", 20.6, 6.8, 0.93, 1.92, 1.32),
    Row("StarCoder", "MBPP", 21.0, 6.8, 0.90, 1.66, 1.34),
    Row("Phi3", "HumanEval", 52.1, 34.0, 0.95, 1.41, 1.16),
    Row("Phi3", "MBPP", 52.2, 34.3, 0.94, 1.37, 1.17),
    Row("Phi3", "CNN-DM", 52.4, 34.6, 0.93, 1.39, 1.17),
    Row("Phi3", "Alpaca", 49.6, 33.4, 0.87, 1.60, 1.18),
)


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times the time of DSI the others take."""

    plain: float
    clean: float
    """SI with its bonus, its correction and its best k."""
    charged: float
    """SI as the authors' simulator charges it."""
    over_bound: float
    """DSI's own time over Proposition 1."""


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = Effort.parser(__doc__)
    parser.add_argument("--rows", type=numbers, default=range(1, len(ROWS) + 1), metavar="N,...", help="from 1")
    parser.add_argument("--lanes", type=int, default=LANES)
    given = parser.parse_args(arguments)
    effort, rows = Effort.parsed(given), [ROWS[int(number) - 1] for number in given.rows]
    report = ComparisonReport("table1", f"Table 1 of the DSI paper, {given.lanes} lanes")
    for row in rows:
        effort.note(report, row.name, await _compared(row, given.lanes, effort))
    speedups = {row.name: speedup(row, report.cells[row.name]) for row in rows}
    report.details["rows"] = {row.name: {**asdict(row), "measured": asdict(speedups[row.name])} for row in rows}
    effort.publish(report, _table(rows, speedups))


def modes(lanes: int) -> tuple[Mode, ...]:
    """DSI is the linear one; with branches it goes past the paper."""
    dsi = Mode("DSI", {"speculation": "streaming", "candidates": 1, "lanes": lanes})
    return OFF, BLOCKING, dsi, Mode(STREAMING.name, {**STREAMING.options, "lanes": lanes})


async def _compared(row: Row, lanes: int, effort: Effort) -> Comparison:
    drafts = waiting_drafts(Agreement(row.rate, spread=False), row.drafter_ms / 1e3)
    async with (
        waiting_swarm(1, StageTime(row.target_ms / 1e3, 0.0), lanes=lanes) as linked,
        Client(linked.swarm.joins, drafter=drafts) as client,
    ):
        return await compare(client, effort.plan(waiting_prompts(effort.prompts), modes(lanes)))


def speedup(row: Row, compared: Comparison) -> Speedup:
    """From what was measured. The forward that the authors' SI makes for each rejection takes as long as a token in `off`."""
    plain, si, dsi = (compared.figures[name] for name in (OFF.name, BLOCKING.name, "DSI"))
    charged_si = (si.ms_per_token + si.rejections_per_token * plain.ms_per_token) / si.accepted_per_token
    charged_dsi = dsi.ms_per_token / dsi.accepted_per_token
    return Speedup(
        plain=plain.ms_per_token / dsi.ms_per_token,
        clean=si.ms_per_token / dsi.ms_per_token,
        charged=charged_si / charged_dsi,
        over_bound=dsi.ms_per_token / row.bound_ms,
    )


def _table(rows: Sequence[Row], speedups: dict[str, Speedup]) -> Table:
    names = ("off / DSI", "clean SI / DSI", "simulated", "as charged", "published", "DSI / Prop. 1")
    table = Table("", *names, title="Times DSI's time")
    for row in rows:
        found = speedups[row.name]
        figures = (found.plain, found.clean, row.simulated, found.charged, row.published, found.over_bound)
        table.add_row(row.name, *(f"{figure:.2f}" for figure in figures))
    return table


if __name__ == "__main__":
    asyncio.run(main())
