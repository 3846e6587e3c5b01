"""`dsd-client bench`: what each mode makes of your swarm, your models and your prompts."""

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from dsd_client.client import Client
from dsd_client.commands.demo import PROMPTS
from dsd_client.commands.options import AnswerOptions
from dsd_client.comparison import MODES, Mode, Plan, compare
from dsd_client.comparison_report import ComparisonReport, require_plots
from dsd_client.prompt_file import read_prompts


async def bench(
    options: AnswerOptions, prompts: Path | None, limit: int, repeats: int, out: Path | None, *, as_json: bool
) -> None:
    """A table, or one object of JSON, on stdout; progress on stderr; files in `out`."""
    if out is not None:
        require_plots()
    asked = read_prompts(prompts, limit) if prompts else PROMPTS[:limit]
    progress = Console(stderr=True)
    async with Client(**options.client) as client:
        plan = Plan(
            prompts=asked,
            modes=[Mode(mode.name, {**mode.options, "lanes": options.lanes, "standby": options.standby}) for mode in MODES],
            max_new_tokens=options.max_new_tokens,
            repeats=repeats,
            lookahead=options.lookahead,
            stop=options.stop,
            sampling=replace(client.target.sampling, **options.sampling),
        )
        with progress.status("measuring") as status:
            comparison = await compare(client, plan, say=status.update)
        report = ComparisonReport("bench", f"{client.target.name}, {len(asked)} prompts", {"": comparison})
    print(json.dumps(report.as_json())) if as_json else Console().print(report.table())
    if out is not None:
        report.write(out)
