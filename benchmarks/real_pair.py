"""Every mode with real models over emulated links: the embedded pair, or any other, greedy.

    python -m benchmarks real_pair --file GSM8K.jsonl [--stages 1,2,4] [--delays 0,2,10,50] [--out DIR]

All processes share this machine, so the stages and the drafter of many nodes wait for each other's cores.
"""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from benchmarks.effort import Effort, first_prompts, numbers
from benchmarks.linked_swarm import linked_swarm
from dsd_client.client import Client
from dsd_client.comparison import compare
from dsd_client.comparison_report import ComparisonReport
from dsd_core import embedded


async def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    effort = Effort.parsed(given)
    prompts = first_prompts(given.file, effort.prompts)
    name = given.file.stem if given.file else "examples"
    report = ComparisonReport(f"real_pair_{name}", f"{Path(given.model).name} on {name}, {len(prompts)} prompts, greedy")
    for stages in map(int, given.stages):
        async with linked_swarm(stages, model=given.model) as linked:
            for delay in given.delays:
                await linked.links.set_delay(delay / 1e3)
                # A client of its own, which sees from the first how far the stages are.
                async with Client(linked.swarm.joins, given.model, given.drafter) as client:
                    effort.note(report, f"N={stages} {delay:g} ms", await compare(client, effort.plan(prompts)))
    effort.publish(report)


def _parser() -> argparse.ArgumentParser:
    parser = Effort.parser(__doc__)
    parser.add_argument("--file", type=Path, help="JSON lines of prompts [default: three examples]")
    parser.add_argument("--stages", type=numbers, default=[1, 2, 4], metavar="N,...")
    parser.add_argument("--delays", type=numbers, default=[0, 2, 10, 50], metavar="MS,...", help="of one way")
    parser.add_argument("--model", default=str(embedded.TARGET))
    parser.add_argument("--drafter", help="[default: that of the embedded pair]")
    return parser


if __name__ == "__main__":
    asyncio.run(main())
