"""`dsd-client status`: whether the model is there, and who holds it."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dsd_client.peer_view import PeerView
from dsd_client.survey import Survey, survey
from dsd_client.swarm import Swarm
from dsd_core import embedded
from dsd_core.model.source import ModelSource, resolve
from dsd_core.network.last_swarm import LastSwarm
from dsd_core.network.seeds import Seeds
from dsd_core.network.transport import transport


async def status(join: Sequence[str], model: str | None, data_dir: Path, *, insecure_loopback: bool, as_json: bool) -> None:
    """A table or an object on stdout. Raises what keeps a session from being opened now, NotCovered above all."""
    source = await asyncio.to_thread(resolve, model or str(embedded.TARGET))
    last = LastSwarm(data_dir)
    seeds = Seeds.parse(join) if join else Seeds.of(last.read())
    swarm = Swarm(seeds, transport(data_dir, insecure_loopback=insecure_loopback, secret=seeds.secret), last)
    try:
        found = await survey(swarm, source.shape)
    finally:
        await swarm.close()
    if as_json:
        print(json.dumps(_as_json(source, found)), flush=True)
    else:
        _show(source, found)
    if found.problem is not None:
        raise found.problem


def _as_json(source: ModelSource, found: Survey) -> dict[str, Any]:
    return {
        "model": source.name,
        "num_layers": source.num_layers,
        "covered": found.problem is None,
        "problem": str(found.problem) if found.problem else None,
        "peers": [asdict(peer) for peer in found.peers],
    }


def _show(source: ModelSource, found: Survey) -> None:
    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("layers", "address", "state", "round trip", "frame", "room", "dtype", "peer"):
        table.add_column(name, no_wrap=name != "peer", overflow="fold" if name == "address" else "ellipsis")
    for peer in found.peers:
        table.add_row(*_row(peer), style=None if peer.state == "serving" else "dim")
    console.print(table)
    if found.problem is None:
        names = " -> ".join(peer.address for peer in found.peers if peer.in_route)
        console.print(f"all {source.num_layers} layers of {source.name} are covered: {names}", soft_wrap=True)


def _row(peer: PeerView) -> tuple[str, ...]:
    layers = f"{peer.layers[0]}:{peer.layers[1]}" if peer.layers else "?"
    room = f"{peer.free_positions} of {peer.total_positions}" if peer.total_positions else ""
    times = (_milliseconds(peer.round_trip_seconds), _milliseconds(peer.frame_seconds))
    return (layers, peer.address, peer.state, *times, room, peer.dtype or "", peer.peer_id or "")


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"
