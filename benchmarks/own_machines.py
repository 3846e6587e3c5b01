"""Every mode with the embedded drafter, on stages that wait instead of computing and choose what the embedded target chose.

    python -m benchmarks own_machines --file GSM8K.jsonl [--stages 1,4] [--delays 10,50] [--out DIR]

What a client gets whose stages have machines of their own: it and its drafter share this one with no more of the stages than
sockets, codec and sessions.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.effort import Effort, first_prompts, numbers
from benchmarks.linked_swarm import waiting_swarm
from benchmarks.recorded import recorded
from benchmarks.waiting_model import RecordedModel
from benchmarks.waiting_span import StageTime
from dsd_client.client import Client
from dsd_client.comparison import compare
from dsd_client.comparison_report import ComparisonReport


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = Effort.parser(__doc__)
    parser.add_argument("--file", type=Path, help="JSON lines of prompts [default: three examples]")
    parser.add_argument("--stages", type=numbers, default=[1, 4], metavar="N,...")
    parser.add_argument("--delays", type=numbers, default=[10, 50], metavar="MS,...", help="of one way")
    parser.add_argument("--frame-ms", type=float, default=3.0, metavar="MS", help="tau0 of each stage")
    parser.add_argument("--node-ms", type=float, default=0.05, metavar="MS", help="tau1 of each stage")
    given = parser.parse_args(arguments)
    effort = Effort.parsed(given)
    prompts = first_prompts(given.file, effort.prompts)
    texts = recorded(prompts, effort.tokens)
    name = given.file.stem if given.file else "examples"
    report = ComparisonReport(f"own_machines_{name}", f"Waiting stages: {given.frame_ms:g} + {given.node_ms:g} n ms, {name}")
    with TemporaryDirectory() as directory:
        RecordedModel.write([text.tokens for text in texts], path := Path(directory, "texts.json"))
        for stages in map(int, given.stages):
            time = StageTime(given.frame_ms / 1e3, given.node_ms / 1e3)
            async with waiting_swarm(stages, time, texts=path) as linked:
                for delay in given.delays:
                    await linked.links.set_delay(delay / 1e3)
                    async with Client(linked.swarm.joins) as client:
                        compared = await compare(client, effort.plan([text.prompt for text in texts]))
                    effort.note(report, f"N={stages} {delay:g} ms", compared)
    effort.publish(report)


if __name__ == "__main__":
    asyncio.run(main())
