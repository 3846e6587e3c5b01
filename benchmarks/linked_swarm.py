"""Node processes behind emulated links."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.link_process import LinkProcess
from benchmarks.waiting_drafter import WaitingDrafts
from benchmarks.waiting_model import Agreement, WaitingModel
from benchmarks.waiting_span import StageTime
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_core import embedded
from dsd_core.model.source import resolve

TEXT_SEED = 1


@dataclass(frozen=True, slots=True)
class LinkedSwarm:
    """`swarm.joins` to join it, `links.set_delay` to move it farther away."""

    swarm: LocalSwarm
    links: LinkProcess


@asynccontextmanager
async def linked_swarm(
    stages: int,
    *,
    lanes: int = 1,
    model: str = str(embedded.TARGET),
    options: Sequence[str] = (),
    program: str = "dsd_node",
) -> AsyncIterator[LinkedSwarm]:
    """`lanes` chains of `stages` nodes each, each behind a link of its own."""
    layers = spans(resolve(model).num_layers, stages) * lanes
    async with LinkProcess(len(layers)) as links:
        behind_links = [[*place, *options] for place in links.node_options]
        async with LocalSwarm(model, layers, threads=1, options=behind_links, program=program) as swarm:
            yield LinkedSwarm(swarm, links)


@asynccontextmanager
async def waiting_swarm(
    stages: int, time: StageTime, *, lanes: int = 1, texts: Path | None = None
) -> AsyncIterator[LinkedSwarm]:
    """The same, of nodes that wait instead of computing; they choose as `texts` go on (RecordedModel)."""
    options = ["--frame-ms", f"{time.frame * 1e3}", "--node-ms", f"{time.node * 1e3}", "--text-seed", f"{TEXT_SEED}"]
    if texts is not None:
        options += ["--texts", str(texts)]
    async with linked_swarm(stages, lanes=lanes, options=options, program="benchmarks.waiting_node") as linked:
        yield linked


def waiting_drafts(agreement: Agreement, step_seconds: float) -> WaitingDrafts:
    """A drafter for it."""
    return WaitingDrafts(WaitingModel(TEXT_SEED, resolve(str(embedded.TARGET)).vocab_size), agreement, step_seconds)


def waiting_prompts(count: int) -> list[list[int]]:
    """Prompts of a few tokens, each with a text of its own."""
    return [[100 + number, 200, 300] for number in range(count)]
