"""`dsd-client bench`: what each mode makes of your swarm, your models and your prompts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from dsd_client.acceptance_report import AcceptanceReport
from dsd_client.client import Client, ConversationOptions
from dsd_client.commands.demo import PROMPTS
from dsd_client.commands.options import AnswerOptions
from dsd_client.comparison import LINEAR, MODES, OFF, STREAMING, Comparison, Mode, Plan, compare
from dsd_client.comparison_report import ComparisonReport, require_plots
from dsd_client.prompt_file import read_prompts
from dsd_client.questions import Questions, made_up, read_questions
from dsd_core import embedded
from dsd_core.decoding.choice.acceptance import MODES as MODES_OF_ACCEPTANCE
from dsd_core.errors import UsageError

RIVALS = [mode for mode in MODES_OF_ACCEPTANCE if mode not in ("exact", "adaptive")]
NARROWEST = 120
"""A table that is cut to fit says nothing."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured how often, and where it goes: a table, or one object of JSON, on stdout; files in `out`."""

    prompts: Path | None
    limit: int
    repeats: int
    out: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        if self.out is not None:
            require_plots()

    async def measure(self, options: AnswerOptions, prompts: Sequence[str], modes: Sequence[Mode]) -> tuple[str, Comparison]:
        """The target's name, and what the modes made of it. Progress goes to stderr."""
        async with Client(**options.client) as client:
            shared: ConversationOptions = {"lanes": options.lanes, "standby": options.standby}
            shared["drift_budget"] = options.drift_budget
            plan = Plan(
                prompts=prompts,
                modes=[replace(mode, options={**shared, **mode.options}) for mode in modes],
                max_new_tokens=options.max_new_tokens,
                repeats=self.repeats,
                lookahead=options.lookahead,
                stop=options.stop,
                sampling=replace(client.target.sampling, **options.sampling),
            )
            with Console(stderr=True).status("measuring") as status:
                return client.target.name, await compare(client, plan, say=status.update)

    def publish(self, report: ComparisonReport) -> None:
        console = Console()
        console.width = max(console.width, NARROWEST)
        print(json.dumps(report.as_json())) if self.as_json else console.print(report.table())
        if self.out is not None:
            report.write(self.out)


async def bench(options: AnswerOptions, bench: Bench) -> None:
    """Every mode of speculation."""
    prompts = read_prompts(bench.prompts, bench.limit) if bench.prompts else PROMPTS[: bench.limit]
    target, comparison = await bench.measure(options, prompts, MODES)
    bench.publish(ComparisonReport("bench", f"{target}, {len(prompts)} prompts", {"": comparison}))


async def bench_adaptive(
    options: AnswerOptions, bench: Bench, tolerances: Sequence[float], latency_factor: float | None
) -> None:
    """Adaptive acceptance against the exact modes that it relaxes, and against its rivals: the late rule, and one tolerance for
    all tokens. For each of the tolerances."""
    questions = _questions(options, bench)
    relaxed = [mode.relaxed(nats, latency_factor) for mode in (LINEAR, STREAMING) for nats in tolerances]
    relaxed += [LINEAR.relaxed(nats, latency_factor, rival) for rival in RIVALS for nats in tolerances]
    target, comparison = await bench.measure(options, questions.prompts, (OFF, LINEAR, STREAMING, *relaxed))
    title = f"{target}, {questions.name}, {len(questions.prompts)} prompts: right, lost and unchanged against the exact mode"
    bench.publish(AcceptanceReport("adaptive", title, {"": comparison}, questions={"": questions}))


def _questions(options: AnswerOptions, bench: Bench) -> Questions:
    if bench.prompts:
        return read_questions(bench.prompts, bench.limit)
    if options.model in (None, str(embedded.TARGET)):
        return made_up(bench.limit)
    raise UsageError("made-up problems are for the embedded target alone; name a file of your own with --prompts")
