"""Comparisons as a table, as JSON and as a plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from dsd_client.comparison import BLOCKING, OFF, Comparison
from dsd_core.errors import UsageError

INCHES_PER_BAR = 0.32


@dataclass(slots=True)
class ComparisonReport:
    """One comparison for each cell: a swarm, a delay, or whatever it was that differed."""

    name: str
    """Of its files."""
    title: str
    cells: dict[str, Comparison] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    """What else belongs into the JSON."""

    def table(self) -> Table:
        names = [Column(no_wrap=True), Column("mode", no_wrap=True)]
        figures = ("ms/token", "x off", "x blocking", "accepted", "wasted", "first ms", "same text")
        table = Table(*names, *(Column(name, justify="right") for name in figures), title=self.title)
        for cell, comparison in self.cells.items():
            for row, name in enumerate(comparison.figures):
                table.add_row("" if row else cell, *_row(comparison, name))
            table.add_section()
        return table

    def as_json(self) -> dict[str, Any]:
        cells = {cell: comparison.as_json() for cell, comparison in self.cells.items()}
        return {"name": self.name, "title": self.title, "cells": cells, **self.details}

    def write(self, directory: Path) -> None:
        """NAME.json and NAME.png. Raises UsageError."""
        require_plots()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{self.name}.json").write_text(json.dumps(self.as_json(), indent=2) + "\n")
            self._plot(directory / f"{self.name}.png")
        except OSError as error:
            raise UsageError(f"{directory} cannot be written to ({error.strerror}); name another directory") from None

    def _plot(self, path: Path) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Drawing

        modes = list(dict.fromkeys(name for comparison in self.cells.values() for name in comparison.figures))
        width = max(5.0, 1.5 + INCHES_PER_BAR * (len(modes) + 1) * len(self.cells))
        drawing = Drawing(figsize=(width, 4.0), layout="constrained")
        FigureCanvasAgg(drawing)
        axes = drawing.subplots()
        for place, mode in enumerate(modes):
            heights = _heights(self.cells, mode)
            middle = [cell + (place - (len(modes) - 1) / 2) / (len(modes) + 1) for cell in range(len(heights))]
            axes.bar(middle, heights, 0.9 / (len(modes) + 1), label=mode)
        axes.set_xticks(range(len(self.cells)), list(self.cells), rotation=20)
        axes.set_yscale("log")
        axes.set_ylabel("ms / token")
        axes.set_title(self.title)
        axes.legend()
        drawing.savefig(path, dpi=120)


def require_plots() -> None:
    """Raises UsageError where plots cannot be drawn: better before an hour of measuring than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("plots need matplotlib; install it (pip install matplotlib), or do without --out") from None


def _row(comparison: Comparison, name: str) -> Sequence[str]:
    figure = comparison.figures[name]
    return (
        figure.name,
        f"{figure.ms_per_token:.1f}",
        times(comparison.times_faster(name, OFF.name)),
        times(comparison.times_faster(name, BLOCKING.name)),
        f"{figure.acceptance:.0%}" if figure.accepted_per_token or figure.rejections_per_token else "-",
        f"{figure.wasted_per_token:.1f}",
        f"{figure.first_token_ms:.0f}",
        "yes" if figure.same_text else "NO",
    )


def times(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.2f}"


def _heights(cells: Mapping[str, Comparison], mode: str) -> list[float]:
    return [cell.figures[mode].ms_per_token if mode in cell.figures else 0.0 for cell in cells.values()]
