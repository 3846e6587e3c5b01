"""Ids with one spelling, signatures with one purpose, and a key file that is ours or is refused."""

import itertools
import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.errors import UsageError
from dsd_core.network import private_file
from dsd_core.network.identity import (
    KEY_FILE,
    Identity,
    PeerId,
    parse_peer_id,
    peer_id_of,
    public_bytes_of,
    verify,
)

ME = Identity.ephemeral()
OTHER = Identity.ephemeral()
DOMAIN = b"dsd-test-v1"
FIELD = 2**255 - 19


def one_line(text: str) -> bool:
    return "\n" not in text and len(text) < 400


# -- ids ---------------------------------------------------------------------------------------------------------------


def test_an_id_is_the_key() -> None:
    assert len(ME.peer_id) == 52
    assert parse_peer_id(ME.peer_id) == ME.peer_id == peer_id_of(public_bytes_of(ME.peer_id))
    assert Identity.ephemeral().peer_id != ME.peer_id
    assert ME.peer_id in repr(ME)


def test_golden_id() -> None:
    """RFC 8032, 7.1, test 1: this spelling must never change."""
    key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert peer_id_of(key) == "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena"


def other_spellings(peer: str) -> list[str]:
    last = "abcdefghijklmnopqrstuvwxyz234567".index(peer[-1])
    padded = ["abcdefghijklmnopqrstuvwxyz234567"[last ^ bit] for bit in (1, 2, 3, 8, 15)]
    return [
        peer.upper(), peer[:20] + peer[20:].upper(), peer + "====", peer + " ", " " + peer, peer + "\n", peer[:-1], peer + "a",
        "", "é" * 52, peer[:-1] + "1", peer.replace(peer[3], "ſ"), *(peer[:-1] + letter for letter in padded),
    ]  # fmt: skip


@pytest.mark.parametrize("text", other_spellings(ME.peer_id), ids=itertools.count())
def test_no_other_spelling(text: str) -> None:
    with pytest.raises(UsageError, match="is not a peer id") as caught:
        parse_peer_id(text)
    assert one_line(str(caught.value))


@given(st.one_of(st.text(max_size=60), st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567", min_size=52, max_size=52)))
def test_whatever_is_read_as_an_id_has_one_spelling(text: str) -> None:
    try:
        peer = parse_peer_id(text)
    except UsageError:
        return
    assert peer == text == peer_id_of(public_bytes_of(peer))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_has_32_bytes(size: int) -> None:
    with pytest.raises(UsageError):
        peer_id_of(bytes(range(size)))


NOBODYS = [
    value.to_bytes(32, "little")
    for low in (0, 1, FIELD - 1, FIELD, FIELD + 1, 2**255 - 1)
    for value in (low, low | 2**255)
] + [
    bytes.fromhex(text)
    for text in (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
]


@pytest.mark.parametrize("key", NOBODYS, ids=bytes.hex)
def test_a_key_under_which_anybody_can_sign_is_no_id(key: bytes) -> None:
    with pytest.raises(UsageError):
        peer_id_of(key)


def test_that_there_are_such_keys() -> None:
    """Why the test above: the library accepts one signature, made by nobody, for every message."""
    neutral = bytes([1]) + bytes(31)
    for message in (b"I am sent by your bank", b"dsd-record-v1:..."):
        Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), message)


# -- signatures --------------------------------------------------------------------------------------------------------


def test_a_signature() -> None:
    signature = ME.sign(DOMAIN, b"message")
    assert verify(ME.peer_id, DOMAIN, b"message", signature)
    assert not verify(OTHER.peer_id, DOMAIN, b"message", signature)
    assert not verify(ME.peer_id, b"dsd-other-v1", b"message", signature)
    assert not verify(ME.peer_id, DOMAIN, b"messagf", signature)
    assert not verify(ME.peer_id, DOMAIN, b"message", OTHER.sign(DOMAIN, b"message"))


def test_no_bit_of_a_signature_is_idle() -> None:
    signature = ME.sign(DOMAIN, b"message")
    flipped = [signature[:i] + bytes([signature[i] ^ 1 << bit]) + signature[i + 1 :] for i in range(64) for bit in range(8)]
    assert not any(verify(ME.peer_id, DOMAIN, b"message", one) for one in flipped)


def test_a_second_signature_cannot_be_derived_from_the_first() -> None:
    signature = ME.sign(DOMAIN, b"message")
    order = 2**252 + 27742317777372353535851937790883648493
    again = (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    assert not verify(ME.peer_id, DOMAIN, b"message", signature[:32] + again)


@given(st.binary(max_size=100), st.text(max_size=60))
def test_nonsense_verifies_nothing(signature: bytes, peer: str) -> None:
    assert not verify(ME.peer_id, DOMAIN, b"message", signature)
    assert not verify(PeerId(peer), DOMAIN, b"message", signature)


@pytest.mark.parametrize("domain", [b"", b"dsd-", b"dsd-a", b"dsd-a-v", b"dsd-a-v1:", b"dsd-a-v1\n", b"dsd-A-v1", b"tls-a-v1"])
def test_a_domain_is_spelt_properly(domain: bytes) -> None:
    with pytest.raises(ValueError, match="not a domain"):
        ME.sign(domain, b"")
    with pytest.raises(ValueError, match="not a domain"):
        verify(ME.peer_id, domain, b"", bytes(64))


@pytest.mark.parametrize("statement", [b"dsd-record-v1:forged", b"\x30\x82\x01\x00"])
def test_nobody_gets_a_message_or_a_certificate_signed_as_something_else(statement: bytes) -> None:
    with pytest.raises(AssertionError):
        ME.vouch(statement)


# -- the key file ------------------------------------------------------------------------------------------------------


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_an_identity_is_kept(tmp_path: Path) -> None:
    data_dir = tmp_path / "a" / "b"
    identity = Identity.load_or_create(data_dir)
    assert Identity.load_or_create(data_dir).peer_id == identity.peer_id
    assert verify(identity.peer_id, DOMAIN, b"", Identity.load_or_create(data_dir).sign(DOMAIN, b""))
    assert os.listdir(data_dir) == [KEY_FILE]
    assert mode_of(data_dir / KEY_FILE) == 0o600
    assert mode_of(data_dir) == 0o700


def test_a_generous_umask_changes_no_mode(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Identity.load_or_create(tmp_path / "data")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "data" / KEY_FILE) == 0o600
    assert mode_of(tmp_path / "data") == 0o700


@pytest.mark.parametrize(("mode", "cure"), [(0o644, "chmod go-r"), (0o660, "chmod go-rw"), (0o601, "chmod go-x")])
def test_a_key_that_others_could_read_is_refused(tmp_path: Path, mode: int, cure: str) -> None:
    Identity.load_or_create(tmp_path)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(UsageError, match="open to other users") as caught:
        Identity.load_or_create(tmp_path)
    assert f"run {cure} on it" in str(caught.value)
    assert one_line(str(caught.value))


def test_a_directory_where_others_could_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match="run chmod go-w on it"):
        Identity.load_or_create(tmp_path)
    assert os.listdir(tmp_path) == []
    tmp_path.chmod(0o755)
    Identity.load_or_create(tmp_path)


def test_what_belongs_to_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Identity.load_or_create(tmp_path)
    if os.geteuid() == 0:
        os.chown(tmp_path / KEY_FILE, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="belongs to another user"):
        Identity.load_or_create(tmp_path)


def x25519(_: bytes) -> bytes:
    return X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


FOREIGN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda kept: b"",
    "cut short": lambda kept: kept[:-40],
    "noise": lambda kept: os.urandom(200),
    "zeros": lambda kept: bytes(len(kept)),
    "huge": lambda kept: kept + b"x" * private_file.MAX_BYTES,
    "without its heading": lambda kept: kept[kept.index(b"-----") :],
    "another's heading": lambda kept: f"peer id: {OTHER.peer_id}\n".encode() + kept[kept.index(b"-----") :],
    "a key of another kind": x25519,
}


@pytest.mark.parametrize("name", [name for name in FOREIGN if name != "huge"])
def test_a_damaged_or_foreign_file_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    Identity.load_or_create(tmp_path)
    path = tmp_path / KEY_FILE
    spoilt = FOREIGN[name](path.read_bytes())
    path.write_bytes(spoilt)
    with pytest.raises(UsageError, match="is damaged, or is no key of ours; restore it, or move it away") as caught:
        Identity.load_or_create(tmp_path)
    assert one_line(str(caught.value))
    assert path.read_bytes() == spoilt


def test_no_flipped_bit_makes_another_peer_of_us(tmp_path: Path) -> None:
    identity = Identity.load_or_create(tmp_path)
    path = tmp_path / KEY_FILE
    kept = path.read_bytes()
    for bit in range(0, len(kept) * 8, 3):
        spoilt = bytearray(kept)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        try:
            assert Identity.load_or_create(tmp_path).peer_id == identity.peer_id
        except UsageError:
            continue


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path, int], None]) -> None:
    make(tmp_path / KEY_FILE, 0o600)
    with pytest.raises(UsageError, match="is not a file") as caught:
        Identity.load_or_create(tmp_path)
    assert one_line(str(caught.value))


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(UsageError, match="--data-dir"):
        Identity.load_or_create(tmp_path / "data")


@pytest.mark.parametrize(("module", "call", "reason"), [(tempfile, "mkstemp", "Read-only"), (os, "link", "No links")])
def test_where_no_file_can_be_made_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, call: str, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(1, reason)

    monkeypatch.setattr(module, call, fail)
    with pytest.raises(UsageError, match=f"cannot write .*: {reason}; name another directory with --data-dir"):
        Identity.load_or_create(tmp_path)
    assert os.listdir(tmp_path) == []


def _load(data_dir: Path, barrier: "multiprocessing.synchronize.Barrier", found: "multiprocessing.Queue[str]") -> None:
    barrier.wait(20)
    found.put(Identity.load_or_create(data_dir).peer_id)


def test_processes_that_race_become_the_same_peer(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("forkserver")
    found: multiprocessing.Queue[str] = forked.Queue()
    barrier = forked.Barrier(4)
    processes = [forked.Process(target=_load, args=(tmp_path / "data", barrier, found)) for _ in range(4)]
    for process in processes:
        process.start()
    ids = {found.get(timeout=30) for _ in processes}
    for process in processes:
        process.join(10)
    assert ids == {Identity.load_or_create(tmp_path / "data").peer_id}


def test_a_loser_of_the_race_takes_the_winners_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, at the worst moment of all."""
    create = private_file.create

    def create_second(path: Path, content: bytes) -> bool:
        assert create(path, ME._to_file())
        return create(path, content)

    monkeypatch.setattr(private_file, "create", create_second)
    assert Identity.load_or_create(tmp_path).peer_id == ME.peer_id
    assert os.listdir(tmp_path) == [KEY_FILE]
