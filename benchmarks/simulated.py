"""Every mode in virtual time, over a grid of swarms: the real session and policy, modelled stages, links and drafter.

Milliseconds a committed token; after the slash, target nodes computed for nothing for each. No machine is measured, so the
figures are the same everywhere.
"""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.virtual_time import Cell, World, acceptance, best_blocking, plain
from dsd_core.decoding.lookahead.streaming import Streaming

WIDTH = 120
CELLS = {
    f"N={stages} {delay:g} ms {kind}": Cell(stages, delay, 2, 5, node)
    for stages, delay in ((1, 10), (4, 0.2), (4, 10), (4, 50), (8, 10))
    for kind, node in (("gpu", 0.25), ("cpu", 2.5))
}
"""Named by stages, one-way delay, and whether a node more costs a twentieth or a half of a launch."""


async def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acceptance", type=float, nargs="+", default=[0.5, 0.7, 0.85], metavar="P")
    parser.add_argument("--tokens", type=int, default=600, metavar="N")
    parser.add_argument("--lanes", type=int, default=1, metavar="N", help="of streaming")
    given = parser.parse_args(arguments)
    table = Table("cell", "p", "off", "blocking (k)", "linear", "streaming")
    for name, cell in CELLS.items():
        for p in given.acceptance:
            table.add_row(name, f"{p:g}", *_row(cell, p, given.tokens, given.lanes))
    Console(width=WIDTH).print(table)


def _row(cell: Cell, p: float, tokens: int, lanes: int) -> list[str]:
    best, k = best_blocking(cell, acceptance(p))
    streamed = [_streamed(cell, p, tokens, lanes, candidates) for candidates in (1, 4)]
    return [f"{plain(cell):.1f}", f"{best:.1f} ({k})", *streamed]


def _streamed(cell: Cell, p: float, tokens: int, lanes: int, candidates: int) -> str:
    run = World(Streaming(candidates), cell, acceptance(p), lanes=lanes).run(tokens)
    return f"{run.milliseconds:.1f} / {run.waste:.1f}"
