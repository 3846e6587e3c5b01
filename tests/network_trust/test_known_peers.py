"""Who was met where, remembered."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.errors import Refused, UsageError
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity, PeerId
from dsd_core.network.known_peers import DIRECTORY, KnownPeers

HERE = Address("127.0.0.1", 4100)
THERE = Address("::1", 4100)
FIRST = Identity.ephemeral().peer_id
SECOND = Identity.ephemeral().peer_id


def the_file(data_dir: Path) -> Path:
    (path,) = (data_dir / DIRECTORY).iterdir()
    return path


@pytest.fixture(params=["kept", "of this process"])
def known(request: pytest.FixtureRequest, tmp_path: Path) -> KnownPeers:
    return KnownPeers(tmp_path if request.param == "kept" else None)


def test_first_use_is_trusted_and_the_next_must_agree(known: KnownPeers) -> None:
    assert known.get(HERE) is None
    assert known.pin(HERE, FIRST)
    assert not known.pin(HERE, FIRST)
    assert not known.pin(HERE, PeerId(str(FIRST.encode(), "ascii")))
    assert known.get(HERE) == FIRST
    with pytest.raises(Refused, match="somebody may be posing as it"):
        known.pin(HERE, SECOND)
    assert known.get(HERE) == FIRST


def test_addresses_are_told_apart(known: KnownPeers) -> None:
    addresses = [HERE, THERE, Address("127.0.0.1", 4101), Address("a.b", 1), Address("a-b", 1), Address("a_b", 1)]
    ids = {address: Identity.ephemeral().peer_id for address in addresses}
    assert all(known.pin(address, peer) for address, peer in ids.items())
    assert {address: known.get(address) for address in addresses} == ids


def test_a_host_is_one_host_however_it_is_written(known: KnownPeers) -> None:
    known.pin(Address("Node.Example.org", 4100), FIRST)
    with pytest.raises(Refused):
        known.pin(Address("node.example.ORG", 4100), SECOND)


def test_what_is_pinned_is_an_id(known: KnownPeers) -> None:
    with pytest.raises(UsageError, match="is not a peer id"):
        known.pin(HERE, PeerId("somebody"))
    assert known.get(HERE) is None


def test_it_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    KnownPeers(tmp_path).pin(THERE, FIRST)
    assert KnownPeers(tmp_path).get(THERE) == FIRST
    assert not KnownPeers(tmp_path).pin(THERE, FIRST)
    assert the_file(tmp_path).read_text() == f"{FIRST}\n"
    assert stat.S_IMODE(the_file(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / DIRECTORY).stat().st_mode) == 0o700


def test_nothing_is_kept_without_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    KnownPeers(None).pin(HERE, FIRST)
    assert KnownPeers(None).get(HERE) is None
    assert os.listdir(tmp_path) == []


def test_the_refusal_says_what_to_do_and_that_works(tmp_path: Path) -> None:
    known = KnownPeers(tmp_path)
    known.pin(HERE, FIRST)
    with pytest.raises(Refused) as caught:
        known.pin(HERE, SECOND)
    message = str(caught.value)
    assert "\n" not in message
    assert FIRST in message
    assert SECOND in message
    assert message.endswith(f"delete {the_file(tmp_path)}")
    the_file(tmp_path).unlink()
    assert known.pin(HERE, SECOND)


def test_without_a_file_the_refusal_says_what_to_do(tmp_path: Path) -> None:
    known = KnownPeers(None)
    known.pin(HERE, FIRST)
    with pytest.raises(Refused, match="restart this program"):
        known.pin(HERE, SECOND)


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\xff\xfe", FIRST[:-1].encode(), FIRST.upper().encode(), f"{FIRST}\n\n".encode(), bytes(53), b"a" * 9000],
    ids=range(8),
)
def test_a_damaged_file_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    known = KnownPeers(tmp_path)
    known.pin(HERE, FIRST)
    the_file(tmp_path).write_bytes(content)
    for attempt in (lambda: known.get(HERE), lambda: known.pin(HERE, FIRST), lambda: known.pin(HERE, SECOND)):
        with pytest.raises(UsageError, match="is damaged; delete it") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert the_file(tmp_path).read_bytes() == content
    known.pin(THERE, SECOND)


def test_a_file_that_others_could_write_is_refused(tmp_path: Path) -> None:
    known = KnownPeers(tmp_path)
    known.pin(HERE, FIRST)
    the_file(tmp_path).chmod(0o666)
    with pytest.raises(UsageError, match="open to other users"):
        known.get(HERE)
    the_file(tmp_path).chmod(0o600)
    (tmp_path / DIRECTORY).chmod(0o770)
    with pytest.raises(UsageError, match="run chmod go-w on it"):
        known.pin(THERE, FIRST)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,230}", fullmatch=True), st.integers(0, 65535))
def test_no_host_leaves_the_directory(tmp_path_factory: pytest.TempPathFactory, host: str, port: int) -> None:
    data_dir = tmp_path_factory.getbasetemp() / "hosts"
    known = KnownPeers(data_dir)
    known.pin(Address(host, port), FIRST)
    assert known.get(Address(host, port)) == FIRST
    assert os.listdir(data_dir) == [DIRECTORY]


def test_a_host_too_long_for_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        KnownPeers(tmp_path).pin(Address("h" * 300, 1), FIRST)
    assert os.listdir(tmp_path / DIRECTORY) == []


def _pin(data_dir: Path, barrier: "multiprocessing.synchronize.Barrier", found: "multiprocessing.Queue[int]") -> None:
    known, mine = KnownPeers(data_dir), Identity.ephemeral().peer_id
    barrier.wait(20)
    won = 0
    for port in range(1, 41):
        try:
            won += known.pin(Address("127.0.0.1", port), mine)
        except Refused:
            continue
    found.put(won)


def test_of_processes_that_race_exactly_one_pins_each_address(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("forkserver")
    found: multiprocessing.Queue[int] = forked.Queue()
    barrier = forked.Barrier(3)
    processes = [forked.Process(target=_pin, args=(tmp_path, barrier, found)) for _ in range(3)]
    for process in processes:
        process.start()
    won = [found.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(10)
    assert sum(won) == 40
    assert len(os.listdir(tmp_path / DIRECTORY)) == 40
