"""What blocks save in communication, against the DSD paper's law, on stages that wait instead of computing.

    python -m benchmarks communication [--stages 3,5,8] [--ratios 1,3,10,20] [--rate 0.8] [--out DIR]

The law (arXiv 2511.11733): of N nodes with t1 one way between two of them, a block of which k tokens commit makes one traversal
instead of k, so that each token saves (N - 1) t1 (k - 1) / k. Neither the way to the first node nor that back from the last is
in it; with both a traversal has N + 1 hops. Ratios are t1 / t0, t0 being what all stages together compute for a traversal; the
paper has 3 to 10. Measured are the round trips of frames without what the stages computed in them, and k: tokens a traversal.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from benchmarks.effort import Effort, numbers
from benchmarks.linked_swarm import waiting_drafts, waiting_prompts, waiting_swarm
from benchmarks.waiting_model import Agreement
from benchmarks.waiting_span import StageTime
from dsd_client.client import Client
from dsd_client.comparison import BLOCKING, OFF, Comparison, compare
from dsd_client.comparison_report import ComparisonReport

TRAVERSAL_MS = 2.0
STEP_MS = 0.5
PAPERS_LOOKAHEAD = 8


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of `off` and of blocks on the same swarm, in milliseconds a token where it is time."""

    stages: int
    hop_ms: float
    plain_traversals: float
    """For each token; in blocks they are 1 / k."""
    block_traversals: float
    plain_network_ms: float
    block_network_ms: float

    @classmethod
    def of(cls, comparison: Comparison, stages: int, hop_ms: float) -> "Traffic":
        plain, block = comparison.figures[OFF.name], comparison.figures[BLOCKING.name]
        traversals = plain.traversals_per_token, block.traversals_per_token
        return cls(stages, hop_ms, *traversals, plain.network_ms_per_token, block.network_ms_per_token)

    @property
    def saved_ms(self) -> float:
        return self.plain_network_ms - self.block_network_ms

    def law_ms(self, hops: int) -> float:
        """(N - 1) t1 (k - 1) / k, with so many hops for N - 1."""
        return hops * self.hop_ms * (1 - self.block_traversals)


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = Effort.parser(__doc__)
    parser.add_argument("--stages", type=numbers, default=[3, 5, 8], metavar="N,...")
    parser.add_argument("--ratios", type=numbers, default=[1, 3, 10, 20], metavar="R,...", help="t1 / t0")
    parser.add_argument("--rate", type=float, default=0.8, metavar="P", help="share of first candidates that are right")
    parser.set_defaults(lookahead=PAPERS_LOOKAHEAD)
    given = parser.parse_args(arguments)
    effort, drafts = Effort.parsed(given), waiting_drafts(Agreement(given.rate), STEP_MS / 1e3)
    report = ComparisonReport("communication", f"Blocks of {effort.lookahead}, t0 = {TRAVERSAL_MS:g} ms")
    traffic: dict[str, Traffic] = {}
    for stages in map(int, given.stages):
        async with waiting_swarm(stages, StageTime(TRAVERSAL_MS / stages / 1e3, 0.0)) as linked:
            for ratio in given.ratios:
                cell, delay = f"N={stages}, t1 = {ratio:g} t0", ratio * TRAVERSAL_MS
                await linked.links.set_delay(delay / 1e3)
                async with Client(linked.swarm.joins, drafter=drafts) as client:
                    compared = await compare(client, effort.plan(waiting_prompts(effort.prompts), (OFF, BLOCKING)))
                traffic[cell] = Traffic.of(compared, stages, delay)
                report.details["traffic"] = {name: asdict(found) for name, found in traffic.items()}
                effort.note(report, cell, compared)
    effort.publish(report, traffic_table(traffic))


def traffic_table(traffic: Mapping[str, Traffic]) -> Table:
    """Traversals and communication a token, and what the law says is saved of the latter."""
    measured = ("traversals/token: off", "blocks", "ms in the network: off", "blocks", "saved")
    table = Table("", *measured, "law, N - 1", "law, N + 1", title="Communication a token, and the law at the measured k")
    for cell, found in traffic.items():
        laws = found.law_ms(found.stages - 1), found.law_ms(found.stages + 1)
        times = (found.plain_network_ms, found.block_network_ms, found.saved_ms, *laws)
        traversals = (f"{found.plain_traversals:.2f}", f"{found.block_traversals:.2f}")
        table.add_row(cell, *traversals, *(f"{milliseconds:.1f}" for milliseconds in times))
    return table


if __name__ == "__main__":
    asyncio.run(main())
