"""How long and how often a benchmark measures: options that several of them share."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dsd_client.commands.demo import PROMPTS
from dsd_client.comparison import MODES, Comparison, Mode, Plan
from dsd_client.comparison_report import ComparisonReport, require_plots
from dsd_client.prompt_file import read_prompts

WIDTH = 120


@dataclass(frozen=True, slots=True)
class Effort:
    """`prompts` of `tokens` each, `repeats` times. Blocking's lookahead is swept over half of the prompts unless given."""

    prompts: int
    tokens: int
    plain_tokens: int
    repeats: int
    lookahead: int | None
    out: Path | None

    @classmethod
    def parser(cls, description: str | None) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--prompts", type=int, default=8, metavar="N")
        parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of each answer")
        parser.add_argument("--plain-tokens", type=int, default=24, metavar="N", help="of each answer with speculation off")
        parser.add_argument("--repeats", type=int, default=3, metavar="N")
        parser.add_argument("--lookahead", type=int, metavar="K", help="blocking's, instead of the best of a sweep")
        parser.add_argument("--out", type=Path, metavar="DIR", help="also write NAME.json and NAME.png there")
        return parser

    @classmethod
    def parsed(cls, given: argparse.Namespace) -> "Effort":
        """Raises UsageError where `--out` asks for plots that cannot be drawn."""
        if given.out is not None:
            require_plots()
        return cls(given.prompts, given.tokens, given.plain_tokens, given.repeats, given.lookahead, given.out)

    def plan(self, prompts: Sequence[str | Sequence[int]], modes: Sequence[Mode] = MODES) -> Plan:
        return Plan(prompts, modes, self.tokens, self.plain_tokens, self.repeats, self.lookahead)

    def note(self, report: ComparisonReport, cell: str, comparison: Comparison) -> None:
        """A cell is done: say so, and write what there is, since a run takes long."""
        report.cells[cell] = comparison
        times = ", ".join(f"{figure.name} {figure.ms_per_token:.1f}" for figure in comparison.figures.values())
        Console(stderr=True, highlight=False).print(f"{cell}: {times}")
        if self.out is not None:
            report.write(self.out)

    def publish(self, report: ComparisonReport, *tables: Table) -> None:
        """Print the report and further tables; write the report."""
        Console(width=WIDTH).print(report.table(), *tables)
        if self.out is not None:
            report.write(self.out)


def first_prompts(file: Path | None, count: int) -> list[str]:
    """Of a file of JSON lines, or of the demo's examples."""
    return read_prompts(file, count) if file is not None else list(PROMPTS[:count])


def numbers(text: str) -> list[float]:
    """Numbers between commas."""
    return [float(number) for number in text.split(",")]
