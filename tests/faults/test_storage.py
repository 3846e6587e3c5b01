"""R12 of the promises, the part with real processes: nodes that are killed amid a download, and disks that are full."""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsd_client import Client
from dsd_client.local_swarm import LocalSwarm
from dsd_core.errors import StorageFull
from dsd_core.network.struck_peers import StruckPeers
from tests.conftest import CALLER, TinyModel
from tests.faulty_swarm import PROMPT
from tests.hub_server import MODEL, Hub, serving

TOKENS = 16
KILLS = 10
DISK_BYTES = 1 << 20
DEADLINE_SECONDS = 60.0


@pytest.fixture
def hub(target: TinyModel) -> Iterator[Hub]:
    with serving(target.directory) as hub:
        yield hub


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test can fill."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(place)]
    if os.name != "posix" or os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only who may mount a file system can fill one")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def start_node(hub: Hub, home: Path, *, max_file_bytes: int | None = None) -> asyncio.subprocess.Process:
    """A node that fetches its model from the hub into `home`."""
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dsd_node", "start", "--model", MODEL, "--layers", "0:4", "--listen", "127.0.0.1:0", "--json",
        "--data-dir", f"{home}-data",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home)},
    )  # fmt: skip
    if max_file_bytes is not None:
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
    return node


async def assert_serves(hub: Hub, home: Path, target: TinyModel) -> None:
    """The same command as before, and the text is that of sound weights."""
    node = await start_node(hub, home)
    try:
        assert node.stdout is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            ready = json.loads(await node.stdout.readline())
        async with Client([ready["join"]], str(target), "none") as client:
            target.greedy(PROMPT, TOKENS).assert_same((await client.generate(PROMPT, max_new_tokens=TOKENS)).token_ids)
    finally:
        node.terminate()
        await node.communicate()


async def test_a_node_that_is_killed_amid_its_download_starts_anew(hub: Hub, target: TinyModel, tmp_path: Path) -> None:
    amid, over = asyncio.Event(), threading.Event()
    loop, hits = asyncio.get_running_loop(), 0

    def hold(connection: socket.socket) -> None:
        nonlocal hits
        hits += 1
        loop.call_soon_threadsafe(amid.set)
        over.wait(DEADLINE_SECONDS)

    hub.amid_weights = hold
    for _ in range(KILLS):
        amid.clear()
        over.clear()
        node = await start_node(hub, tmp_path / "home")
        async with asyncio.timeout(DEADLINE_SECONDS):
            await amid.wait()
        node.kill()
        await node.communicate()
        over.set()
    assert hits == KILLS
    assert not list((tmp_path / "home").rglob("model.safetensors"))
    hub.amid_weights = None
    await assert_serves(hub, tmp_path / "home", target)


async def assert_refused_for_room(hub: Hub, home: Path, *, max_file_bytes: int | None = None) -> None:
    node = await start_node(hub, home, max_file_bytes=max_file_bytes)
    async with asyncio.timeout(DEADLINE_SECONDS):
        out, said = await node.communicate()
    assert node.returncode == StorageFull.exit_code
    assert not out
    last = said.decode().splitlines()[-1]
    print(last)
    assert f"no room for model.safetensors of {MODEL} in {home}" in last
    assert "; make room there" in last
    assert b"Traceback" not in said


async def test_a_full_disk_is_an_answer(hub: Hub, target: TinyModel, small_disk: Path) -> None:
    home = small_disk / "home"
    room = (target.directory / "model.safetensors").stat().st_size * 3 // 4
    filler = small_disk / "filler"
    filler.write_bytes(bytes(DISK_BYTES - room))
    await assert_refused_for_room(hub, home)
    filler.unlink()
    await assert_serves(hub, home, target)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="a limit can be set for another process on Linux alone")
async def test_a_spent_quota_is_an_answer(hub: Hub, target: TinyModel, tmp_path: Path) -> None:
    half = (target.directory / "model.safetensors").stat().st_size // 2
    await assert_refused_for_room(hub, tmp_path / "home", max_file_bytes=half)
    await assert_serves(hub, tmp_path / "home", target)


async def test_a_node_whose_data_directory_is_full_goes_on(target: TinyModel, small_disk: Path) -> None:
    """It has its key already. It meets a seed, and remembers it without a file."""
    options = ["--data-dir", str(small_disk / "data")]
    reference = target.greedy(PROMPT, TOKENS)
    async with LocalSwarm(str(target), ["0:2"], threads=1, options=[options]) as swarm:
        pass
    fill(small_disk)
    async with LocalSwarm(str(target), ["2:4"], threads=1) as seed:
        options += ["--join", *seed.addresses]
        async with LocalSwarm(str(target), ["0:2"], threads=1, options=[options]) as swarm:
            async with Client(swarm.joins, str(target), "none") as client:
                reference.assert_same((await client.generate(PROMPT, max_new_tokens=TOKENS)).token_ids)
            log = swarm.nodes[0].log
            log.seek(0)
            said = log.read().decode()
    print(said)
    assert f"no room for {small_disk}/data/known_peers/" in said
    assert "Traceback" not in said


def test_strikes_count_on_a_full_disk(small_disk: Path) -> None:
    """They are never forgiven while the process lives; those that were kept are not lost afterwards."""
    peer, struck = CALLER.peer_id, StruckPeers(small_disk)
    struck.strike(peer, "kept")
    fill(small_disk)
    struck.strike(peer, "not kept")
    assert struck.count(peer) == 2
    (small_disk / "filler").unlink()
    struck.strike(peer, "kept")
    assert struck.count(peer) == 3
    assert StruckPeers(small_disk).count(peer) == 2


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(bytes(2 * DISK_BYTES))
