"""What adaptive acceptance gains over emulated links, and what it gives away: the embedded pair, or any other, greedy.

    python -m benchmarks adaptive_speed [--files GSM8K.jsonl HUMANEVAL.jsonl] [--stages 4] [--delays 10,0] [--out DIR]

off, best blocking, linear streaming and streaming with branches, each exact and adaptive, on made-up problems and on the files.
λ is what the latency says: 0 at a delay of 0, where adaptive texts are the exact ones. In the last cell the drafter is always
wrong: the gain is gone, the quality is not. The second table is the paper's communication law (`communication` has more of it).
"""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from benchmarks.communication import Traffic, traffic_table
from benchmarks.effort import Effort, numbers
from benchmarks.linked_swarm import LinkedSwarm, linked_swarm
from benchmarks.wrong_drafter import WrongDrafts
from dsd_client.acceptance_report import AcceptanceReport
from dsd_client.client import Client
from dsd_client.comparison import BLOCKING, LINEAR, OFF, STREAMING, Mode, compare
from dsd_client.drafting import DrafterSource, load_drafter
from dsd_client.questions import Questions, made_up, read_questions
from dsd_client.target_model import TargetModel
from dsd_core import embedded
from dsd_core.decoding.choice.acceptance import TOLERANCE_NATS
from dsd_core.model.compute_thread import ComputeThread


async def main(arguments: Sequence[str] | None = None) -> None:
    parser = Effort.parser(__doc__)
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="JSON lines of prompts")
    parser.add_argument("--stages", type=int, default=4, metavar="N")
    parser.add_argument("--delays", type=numbers, default=[10, 0], metavar="MS,...", help="of one way")
    parser.add_argument("--tolerances", type=numbers, default=[TOLERANCE_NATS], metavar="NATS,...")
    parser.add_argument("--latency-factor", type=float, metavar="F", help="[default: as the latency says]")
    parser.add_argument("--rivals", nargs="*", default=[], choices=("late", "fixed"), help="on linear streaming")
    given = parser.parse_args(arguments)
    effort = Effort.parsed(given)
    sets = [made_up(effort.prompts), *(read_questions(path, effort.prompts) for path in given.files)]
    modes = _modes(given.tolerances, given.latency_factor, given.rivals)
    report = AcceptanceReport("adaptive_speed", f"The embedded pair, N = {given.stages}, {effort.prompts} prompts, greedy")
    traffic: dict[str, Traffic] = {}
    async with linked_swarm(given.stages) as linked:
        for delay in given.delays:
            await linked.links.set_delay(delay / 1e3)
            for questions in sets:
                cell = f"{delay:g} ms, {questions.name}"
                await _note(cell, report, effort, linked, questions, modes)
                if delay:
                    traffic[cell] = Traffic.of(report.cells[cell], given.stages, delay)
        await linked.links.set_delay(given.delays[0] / 1e3)
        with closing(ComputeThread("drafter")) as thread:
            wrong = f"{given.delays[0]:g} ms, wrong drafter"
            await _note(wrong, report, effort, linked, sets[0], modes, _wrong_drafter(thread))
    report.details["traffic"] = {cell: asdict(found) for cell, found in traffic.items()}
    effort.publish(report, traffic_table(traffic))


def _modes(tolerances: Sequence[float], factor: float | None, rivals: Sequence[str]) -> list[Mode]:
    exact = (BLOCKING, LINEAR, STREAMING)
    adaptive = [mode.relaxed(nats, factor) for mode in exact for nats in tolerances]
    return [OFF, *exact, *adaptive, *(LINEAR.relaxed(nats, factor, rival) for rival in rivals for nats in tolerances)]


async def _note(
    cell: str,
    report: AcceptanceReport,
    effort: Effort,
    linked: LinkedSwarm,
    questions: Questions,
    modes: Sequence[Mode],
    drafter: DrafterSource | None = None,
) -> None:
    async with Client(linked.swarm.joins, drafter=drafter) as client:
        compared = await compare(client, effort.plan(questions.prompts, modes))
    report.questions[cell] = questions
    effort.note(report, cell, compared)


def _wrong_drafter(thread: ComputeThread) -> WrongDrafts:
    target = TargetModel.load(str(embedded.TARGET))
    right = load_drafter(str(embedded.DRAFTER), target.tokenizer, target.shape.vocab_size, thread)
    return WrongDrafts(right, target.shape.vocab_size)


if __name__ == "__main__":
    asyncio.run(main())
