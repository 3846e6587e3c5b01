"""What is kept in the data directory when there is no room in it: of this process alone, and no reason to stop."""

import errno
import os
from pathlib import Path

import pytest

from dsd_core.errors import Refused, StorageFull
from dsd_core.network import private_file
from dsd_core.network.address import Address
from dsd_core.network.banned_peers import BannedPeers
from dsd_core.network.identity import Identity
from dsd_core.network.join_token import JoinToken
from dsd_core.network.known_peers import KnownPeers
from dsd_core.network.last_swarm import LastSwarm
from dsd_core.network.struck_peers import StruckPeers

HERE = Address("127.0.0.1", 4100)
ALICE, BOB = (Identity.ephemeral().peer_id for _ in range(2))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The disk, until it is undone."""

    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(private_file.os, "fsync", no_room)
    return monkeypatch


def test_who_was_met_is_remembered(full: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = KnownPeers(tmp_path)
    assert known.pin(HERE, ALICE)
    assert not known.pin(HERE, ALICE)
    assert known.get(HERE) == ALICE
    full.undo()
    with pytest.raises(Refused, match="somebody may be posing as it"):
        known.pin(HERE, BOB)


def test_who_is_banned_stays_so(full: pytest.MonkeyPatch, tmp_path: Path) -> None:
    banned = BannedPeers(tmp_path)
    banned.ban(ALICE, "a lie")
    assert ALICE in banned
    assert BOB not in banned


def test_strikes_count_with_those_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    struck = StruckPeers(tmp_path)
    struck.strike(ALICE, "kept")
    with monkeypatch.context() as patch:
        patch.setattr(private_file, "create", _no_room)
        struck.strike(ALICE, "not kept")
    struck.strike(ALICE, "kept")
    assert struck.count(ALICE) == 3
    assert StruckPeers(tmp_path).count(ALICE) == 2


def _no_room(path: Path, content: bytes) -> bool:
    raise StorageFull(f"no room for {path}")


def test_a_key_or_a_swarm_that_cannot_be_kept_says_so(full: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match=r"no room for .*; make room, or name another --data-dir"):
        Identity.load_or_create(tmp_path)
    with pytest.raises(StorageFull, match="no room for"):
        LastSwarm(tmp_path).keep(JoinToken(((HERE, ALICE),)))
    assert list(tmp_path.iterdir()) == [], "nothing is left half written"
