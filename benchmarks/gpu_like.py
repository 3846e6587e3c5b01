"""Every mode on stages whose time hardly grows with a frame, as on GPUs: tau1 = tau0 / 20, over emulated links.

    python -m benchmarks gpu_like [--stages 1,4,8] [--delays 0,2,10,50] [--rate 0.7] [--out DIR]

Real node processes, sockets, codec and sessions; only the layers wait instead of computing. Two drafters that are no good,
one that knows it and one that does not, are compared too, at the second of the delays.
"""

import asyncio
from collections.abc import Sequence

from benchmarks.effort import Effort, numbers
from benchmarks.linked_swarm import LinkedSwarm, waiting_drafts, waiting_prompts, waiting_swarm
from benchmarks.waiting_model import Agreement
from benchmarks.waiting_span import StageTime
from dsd_client.client import Client
from dsd_client.comparison import Comparison, compare
from dsd_client.comparison_report import ComparisonReport

FRAME_MS = 5.0
STEP_MS = 2.0
NEVER_RIGHT = Agreement(0.0)
WRONG_AND_SURE = Agreement(0.0, shares=(0.0, 0.0, 0.0), claimed=0.9)


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = Effort.parser(__doc__)
    parser.add_argument("--stages", type=numbers, default=[1, 4, 8], metavar="N,...")
    parser.add_argument("--delays", type=numbers, default=[0, 2, 10, 50], metavar="MS,...", help="of one way")
    parser.add_argument("--rate", type=float, default=0.7, metavar="P", help="share of first candidates that are right")
    given = parser.parse_args(arguments)
    effort = Effort.parsed(given)
    report = ComparisonReport("gpu_like", f"GPU-like stages: {FRAME_MS:g} + {FRAME_MS / 20:g} n ms, drafts {STEP_MS:g} ms")
    for stages in map(int, given.stages):
        async with waiting_swarm(stages, StageTime(FRAME_MS / 1e3, FRAME_MS / 20e3)) as linked:
            for delay in given.delays:
                compared = await _compared(linked, delay, Agreement(given.rate), effort)
                effort.note(report, f"N={stages} {delay:g} ms", compared)
            useless_at = given.delays[min(1, len(given.delays) - 1)]
            for name, agreement in (("p = 0", NEVER_RIGHT), ("wrong", WRONG_AND_SURE)):
                compared = await _compared(linked, useless_at, agreement, effort)
                effort.note(report, f"N={stages} {useless_at:g} ms, {name}", compared)
    effort.publish(report)


async def _compared(linked: LinkedSwarm, delay_ms: float, agreement: Agreement, effort: Effort) -> Comparison:
    await linked.links.set_delay(delay_ms / 1e3)
    async with Client(linked.swarm.joins, drafter=waiting_drafts(agreement, STEP_MS / 1e3)) as client:
        return await compare(client, effort.plan(waiting_prompts(effort.prompts)))


if __name__ == "__main__":
    asyncio.run(main())
