"""`dsd-client demo`: the whole thing on one machine, with nothing but what ships."""

import json
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dsd_client import painting
from dsd_client.client import Client
from dsd_client.local_swarm import LocalSwarm, spans
from dsd_client.results import Result
from dsd_core import embedded

NODES = 3
MAX_NEW_TOKENS = 96
MODES = ("off", "blocking", "streaming")
PROMPTS = (
    "Question: Mia has 12 shells. She finds 7 more, and then gives 5 to Tom. How many shells does Mia have?\nAnswer:",
    "Question: A baker bakes 6 trays with 8 rolls each. He sells 30 rolls. How many rolls are left?\nAnswer:",
    'def reverse_words(text):\n    """Return the words of text in reverse order."""\n',
)


async def demo() -> None:
    """Three node processes, an answer in colour, a comparison. Everything started is ended, on Ctrl-C too."""
    console = Console()
    console.print(f"Starting {NODES} nodes, each with a third of the embedded model ...")
    layers = json.loads((embedded.TARGET / "config.json").read_text())["num_hidden_layers"]
    async with LocalSwarm(str(embedded.TARGET), spans(layers, NODES)) as swarm:
        for node in swarm.nodes:
            console.print(f"  layers {node.layers.start}:{node.layers.stop}  {node.address}  pid {node.pid}")
        async with Client(swarm.joins) as client:
            await _answer(console, client)
            await _compare(console, client)


async def _answer(console: Console, client: Client) -> None:
    console.print(f"\n{PROMPTS[0]}", end="", highlight=False, markup=False)
    async for chunk in client.stream(PROMPTS[0], max_new_tokens=MAX_NEW_TOKENS):
        painting.show(console, chunk.tokens)
    console.print("\n\n", painting.legend(console), "\n", sep="")


async def _compare(console: Console, client: Client) -> None:
    """The modes take turns on the same prompts, so that both meet the same weather."""
    results: dict[str, list[Result]] = {mode: [] for mode in MODES}
    for prompt in PROMPTS:
        for mode in MODES:
            results[mode].append(await client.generate(prompt, max_new_tokens=MAX_NEW_TOKENS, speculation=mode))
    table = Table("speculation", "tokens/s", "acceptance", "frames", "sent", "received", "same text")
    plain = [result.text for result in results["off"]]
    for mode in MODES:
        table.add_row(mode, *_row(results[mode]), "yes" if [result.text for result in results[mode]] == plain else "no")
    console.print(table)


def _row(results: Sequence[Result]) -> Sequence[str]:
    stats = [result.stats for result in results]
    accepted, judged = sum(s.accepted for s in stats), sum(s.accepted + s.rejections for s in stats)
    return (
        f"{statistics.median(s.tokens_per_second for s in stats):.1f}",
        f"{accepted / judged:.0%}" if judged else "-",
        str(sum(s.frames for s in stats)),
        f"{sum(s.bytes_sent for s in stats)} B",
        f"{sum(s.bytes_received for s in stats)} B",
    )
