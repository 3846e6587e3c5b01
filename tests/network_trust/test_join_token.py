"""Tokens that people copy: whole, cut, mistyped, of later releases, and nonsense."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.errors import UsageError
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity, PeerId, public_bytes_of
from dsd_core.network.join_token import MAX_CHARACTERS, MAX_SEEDS, JoinToken

PEERS = [Identity.ephemeral().peer_id for _ in range(4)]
HERE = Address("127.0.0.1", 4100)
TOKEN = JoinToken(((HERE, PEERS[0]), (Address("node.example.org", 4100), PEERS[1])), b"swarm id", bytes(range(16)))

hosts = st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True) | st.ip_addresses(v=6).map(str)
seeds = st.tuples(st.builds(Address, hosts, st.integers(1, 65535)), st.sampled_from(PEERS))
tokens = st.builds(
    JoinToken,
    st.lists(seeds, min_size=1, max_size=8).map(tuple),
    st.none() | st.binary(min_size=1, max_size=64),
    st.none() | st.binary(min_size=16, max_size=64),
)


def sealed(payload: bytes, prefix: str = "dsd1") -> str:
    """A token of this payload, written out, as another release might."""
    checksum = hashlib.sha256(b"dsd-join-v1:" + payload).digest()[:6]
    return prefix + base64.urlsafe_b64encode(payload + checksum).decode().rstrip("=")


def a_field(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


SEED = a_field(0, public_bytes_of(PEERS[0]) + b"127.0.0.1:4100")


@given(tokens)
def test_what_is_encoded_is_decoded(token: JoinToken) -> None:
    text = token.encode()
    assert JoinToken.decode(text) == JoinToken.decode(f" {text}\n") == token
    assert text.startswith("dsd1")
    assert text.isascii()
    assert len(text) <= MAX_CHARACTERS
    assert JoinToken.looks_like_one(text)


def test_a_token_written_out() -> None:
    """The form of a token must never change: they live in people's mail."""
    token = JoinToken(((HERE, PEERS[0]),), b"swarm", bytes(16))
    assert token.encode() == sealed(SEED + a_field(2, b"swarm") + a_field(4, bytes(16)))
    assert JoinToken(((HERE, PEERS[0]),)).encode() == sealed(SEED)
    assert len(sealed(SEED)) < 80


def test_a_golden_token() -> None:
    peer = PeerId("25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena")
    text = "dsd1AAAu11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURoxMjcuMC4wLjE6NDEwMAIABXN3YXJtyGpMOsL7"
    assert JoinToken(((HERE, peer),), b"swarm").encode() == text


@pytest.mark.parametrize("text", ["127.0.0.1:4100", "[::1]:4100", "dsd1abc:4100", "dsd-node.example.org:1", "localhost", ""])
def test_an_address_is_not_taken_for_a_token(text: str) -> None:
    assert not JoinToken.looks_like_one(text)


def test_a_secret_is_not_printed() -> None:
    assert TOKEN.secret is not None
    assert "secret" not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


# -- slips -------------------------------------------------------------------------------------------------------------


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        JoinToken.decode(text)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


def test_no_part_of_a_token_is_one() -> None:
    text = TOKEN.encode()
    for length in range(len(text)):
        refusal(text[:length])
        refusal(text[length + 1 :])
        refusal(text[:length] + text[length + 1 :])


@pytest.mark.parametrize("swarm", [b"1", b"12", b"123"])
def test_no_other_letter_goes_unnoticed(swarm: bytes) -> None:
    """And no token has two spellings, though base64 has, at two lengths of three."""
    text = JoinToken(TOKEN.seeds, swarm).encode()
    for at in range(len(text)):
        for letter in "ABCDEFGHabcdefgh0123-_Zz9 é":
            if letter != text[at]:
                refusal(text[:at] + letter + text[at + 1 :])


def test_letters_that_change_places_are_noticed() -> None:
    text = TOKEN.encode()
    for at in range(len(text) - 1):
        if text[at] != text[at + 1]:
            refusal(text[:at] + text[at + 1] + text[at] + text[at + 2 :])


@given(st.text(max_size=300))
def test_nonsense(text: str) -> None:
    refusal(text)
    refusal("dsd1" + text)


@given(st.binary(max_size=300))
def test_nonsense_with_a_proper_checksum(payload: bytes) -> None:
    """Anybody can compute it: it is against slips alone."""
    try:
        token = JoinToken.decode(sealed(payload))
    except UsageError:
        return
    assert JoinToken.decode(token.encode()) == token


@given(st.data())
def test_mutated_fields_with_a_proper_checksum(data: st.DataObject) -> None:
    payload = bytearray(SEED + a_field(2, b"swarm") + a_field(4, bytes(16)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    test_nonsense_with_a_proper_checksum.hypothesis.inner_test(bytes(payload))  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["dsd1" + "A" * 5_000_000, "A" * 5_000_000, sealed(SEED * 100)])
def test_a_huge_token_is_refused_unread(text: str) -> None:
    assert "copy it again" in refusal(text)


# -- what no token holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        a_field(2, b"swarm"),
        SEED * (MAX_SEEDS + 1),
        SEED + a_field(2, b""),
        SEED + a_field(2, bytes(65)),
        SEED + a_field(2, b"one") + a_field(2, b"two"),
        SEED + a_field(4, bytes(15)),
        SEED + a_field(4, bytes(65)),
        SEED + b"\1",
        SEED + b"\1\xff\xff",
        SEED[:-1],
        a_field(0, b""),
        a_field(0, bytes(32) + b"127.0.0.1:4100"),
        a_field(0, public_bytes_of(PEERS[0])),
        a_field(0, public_bytes_of(PEERS[0]) + b"127.0.0.1:0"),
        a_field(0, public_bytes_of(PEERS[0]) + b"127.0.0.1"),
        a_field(0, public_bytes_of(PEERS[0]) + b"\xff:1"),
        a_field(0, public_bytes_of(PEERS[0]) + b"/etc/passwd:1"),
    ],
    ids=range(18),
)
def test_a_proper_checksum_makes_no_proper_token(payload: bytes) -> None:
    refusal(sealed(payload))


@pytest.mark.parametrize(
    ("seeds", "swarm", "secret"),
    [
        ((), None, None),
        (((HERE, PEERS[0]),) * (MAX_SEEDS + 1), None, None),
        (((Address("127.0.0.1", 0), PEERS[0]),), None, None),
        (((Address("no host", 1), PEERS[0]),), None, None),
        (((HERE, PeerId("me")),), None, None),
        (((HERE, PEERS[0]),), b"", None),
        (((HERE, PEERS[0]),), None, b"guessable"),
    ],
)
def test_what_no_token_can_hold(seeds: tuple[tuple[Address, PeerId], ...], swarm: bytes | None, secret: bytes | None) -> None:
    with pytest.raises(UsageError):
        JoinToken(seeds, swarm, secret)


def test_a_token_too_long_to_paste() -> None:
    many = tuple((Address("h" * 200, port), PEERS[0]) for port in range(1, MAX_SEEDS + 1))
    with pytest.raises(UsageError, match="is too long"):
        JoinToken(many).encode()


# -- later releases ----------------------------------------------------------------------------------------------------


def test_what_a_later_release_adds_is_skipped_if_it_may_be() -> None:
    added = a_field(1, b"new") + a_field(255, b"")
    assert JoinToken.decode(sealed(added + SEED + added)) == JoinToken.decode(sealed(SEED))


def test_what_must_be_understood_is_not_skipped() -> None:
    assert "newer release" in refusal(sealed(SEED + a_field(6, b"new")))


def test_a_token_of_another_form() -> None:
    assert "of this release" in refusal(sealed(SEED, "dsd2"))
