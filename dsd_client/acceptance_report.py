"""What adaptive acceptance gains and gives away, as a table, as JSON and as a plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Column, Table

from dsd_client.comparison import OFF, Comparison, Figure
from dsd_client.comparison_report import ComparisonReport, times
from dsd_client.paired_loss import PairedLoss
from dsd_client.questions import Questions


@dataclass(frozen=True, slots=True)
class Quality:
    """Of an adaptive mode's answers, against those of the exact mode that it relaxes. All are shares."""

    times_faster: float | None
    unchanged: float
    right: float | None
    """None, as are the others, where nobody can say what is right."""
    loss: float | None
    loss_bound: float | None
    """Of the loss, with 95 % confidence."""


@dataclass
class AcceptanceReport(ComparisonReport):
    """`questions` by cell."""

    questions: dict[str, Questions] = field(default_factory=dict)

    def quality(self, cell: str) -> dict[str, Quality]:
        """Of each mode but `off`, which may have been cut short."""
        comparison, questions = self.cells[cell], self.questions[cell]
        compared = [figure for figure in comparison.figures.values() if figure.mode != OFF.name]
        return {figure.mode: _quality(comparison, questions, figure) for figure in compared}

    def table(self) -> Table:
        names = ("ms/token", "x off", "x exact", "λ", "relaxed", "nats/token", "most", "same", "right", "lost ≤ 95 %")
        figures = [Column(name, justify="right", no_wrap=True) for name in names]
        table = Table(Column("mode", no_wrap=True), *figures, title=self.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for cell, comparison in self.cells.items():
            if cell:
                table.add_row(f"[bold]{cell}")
            quality = self.quality(cell)
            for figure in comparison.figures.values():
                table.add_row(*_cells(comparison, figure, quality.get(figure.mode)))
            table.add_section()
        return table

    def as_json(self) -> dict[str, Any]:
        found = {cell: {mode: asdict(quality) for mode, quality in self.quality(cell).items()} for cell in self.cells}
        return super().as_json() | {"quality": found}

    def _plot(self, path: Path) -> None:
        """Nats given away, and right answers where they can be told, over speed: what lies lower, and higher, is better."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Drawing

        drawing = Drawing(figsize=(5.0 * max(1, len(self.cells)), 6.0), layout="constrained")
        FigureCanvasAgg(drawing)
        panels = drawing.subplots(2, max(1, len(self.cells)), squeeze=False)
        for column, (cell, comparison) in enumerate(self.cells.items()):
            nats, right = panels[0][column], panels[1][column]
            quality = self.quality(cell)
            for exact in dict.fromkeys(figure.exact for figure in comparison.figures.values() if figure.exact):
                line = [figure for figure in comparison.figures.values() if exact in (figure.mode, figure.exact)]
                speeds = [comparison.times_faster(figure.mode, exact) for figure in line]
                nats.plot(speeds, [figure.nats_per_token for figure in line], marker="o", label=exact)
                right.plot(speeds, [quality[figure.mode].right for figure in line], marker="o", label=exact)
            nats.set(title=cell or self.title, ylabel="nats / token")
            right.set(xlabel="speed of the exact mode", ylabel="share right")
            nats.legend()
        drawing.savefig(path, dpi=120)


def _quality(comparison: Comparison, questions: Questions, figure: Figure) -> Quality:
    exact = figure.exact or figure.mode
    texts, before = comparison.texts[figure.mode], comparison.texts[exact]
    prompts = [str(prompt) for prompt in comparison.prompts]
    right, right_before = questions.right(prompts, texts), questions.right(prompts, before)
    paired = PairedLoss.between(right_before, right) if right is not None and right_before is not None else None
    return Quality(
        times_faster=comparison.times_faster(figure.mode, exact),
        unchanged=sum(text == other for text, other in zip(texts, before, strict=True)) / len(texts),
        right=None if right is None else sum(right) / len(right),
        loss=None if paired is None else paired.share,
        loss_bound=None if paired is None else paired.upper_bound,
    )


def _cells(comparison: Comparison, figure: Figure, quality: Quality | None) -> Sequence[str]:
    speeds = (figure.name, f"{figure.ms_per_token:.1f}", times(comparison.times_faster(figure.mode, OFF.name)))
    right = "-" if quality is None else _percent(quality.right)
    if quality is None or not figure.exact:
        return (*speeds, *["-"] * 6, right, "-")
    given_away = (f"{figure.relaxed_per_token:.1%}", f"{figure.nats_per_token:.4f}", f"{figure.largest_nats:.2f}")
    lost = "-" if quality.loss is None else f"{_percent(quality.loss)} ≤ {_percent(quality.loss_bound)}"
    relaxed = (times(quality.times_faster), f"{figure.latency_factor:.2f}", *given_away, _percent(quality.unchanged))
    return (*speeds, *relaxed, right, lost)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
