"""The swarm of the last time, on disk; and what `--join` says of one."""

import os
from pathlib import Path

import pytest

from dsd_core.errors import UsageError
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_core.network.join_token import MAX_SEEDS, JoinToken
from dsd_core.network.last_swarm import FILE, LastSwarm
from dsd_core.network.seeds import Seeds

HERE, THERE = Address("127.0.0.1", 4100), Address("127.0.0.1", 4101)
ALICE, BOB = (Identity.ephemeral().peer_id for _ in range(2))
PRIVATE = JoinToken(((HERE, ALICE),), b"swarm", b"s" * 32)


def test_what_is_kept_is_read_and_replaced(tmp_path: Path) -> None:
    last = LastSwarm(tmp_path)
    assert last.read() is None
    for token in (PRIVATE, JoinToken(((THERE, BOB),))):
        last.keep(token)
        assert LastSwarm(tmp_path).read() == token
    assert os.listdir(tmp_path) == [FILE]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_without_a_directory_nothing_is_kept() -> None:
    last = LastSwarm(None)
    last.keep(PRIVATE)
    assert last.read() is None


def test_a_file_that_others_could_write_is_not_read(tmp_path: Path) -> None:
    """It holds the secret, and says whom to trust."""
    LastSwarm(tmp_path).keep(PRIVATE)
    (tmp_path / FILE).chmod(0o644)
    with pytest.raises(UsageError, match="open to other users"):
        LastSwarm(tmp_path).read()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        LastSwarm(tmp_path / "file").keep(PRIVATE)


def test_addresses_and_tokens_together() -> None:
    seeds = Seeds.parse([str(THERE), PRIVATE.encode()])
    assert seeds == Seeds({THERE: None, HERE: ALICE}, b"swarm", b"s" * 32)
    assert "s" * 32 not in repr(seeds)


def test_tokens_of_two_swarms_are_a_contradiction() -> None:
    with pytest.raises(UsageError, match="different swarms"):
        Seeds.parse([PRIVATE.encode(), JoinToken(((THERE, BOB),)).encode()])


@pytest.mark.parametrize("text", ["nowhere", "dsd1nonsense", ""])
def test_neither_an_address_nor_a_token(text: str) -> None:
    with pytest.raises(UsageError):
        Seeds.parse([text])


def test_the_next_token_names_those_who_are_known_now_first() -> None:
    seeds = Seeds.of(PRIVATE)
    assert seeds.token([(THERE, BOB)]) == JoinToken(((THERE, BOB), (HERE, ALICE)), b"swarm", b"s" * 32)
    assert seeds.token([(THERE, ALICE)]).seeds == ((THERE, ALICE),)
    many = [(Address("127.0.0.1", port), Identity.ephemeral().peer_id) for port in range(1, 40)]
    assert seeds.token(many).seeds == tuple(many[:MAX_SEEDS])
