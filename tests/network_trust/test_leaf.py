"""Who is behind a certificate: nobody, unless all of it is in order."""

import base64
import random
from collections.abc import Callable
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from dsd_core.errors import ProtocolError, Refused
from dsd_core.network import signed_key
from dsd_core.network.identity import Identity, PeerId
from dsd_core.network.leaf import MAX_CERTIFICATE_BYTES, client_leaf, peer_behind_client, peer_behind_server, server_leaf
from dsd_core.network.trust_anchor import anchor_of, named, open_ca, open_ca_key
from tests.network_trust.conftest import client_leaf_with, new_key, server_form

ME = Identity.ephemeral()
OTHER = Identity.ephemeral()
OPEN_CA_IDENTITY = Identity(open_ca_key())

# libp2p/specs, tls/tls.md: test vectors 1 (valid, Ed25519) and 4 (the identity signed another key).
VALID_LIBP2P = bytes.fromhex(
    "308201ae30820156a0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e696f310a300806"
    "035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a302031123010060355040a13096c696270"
    "32702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca85e27c73c263b"
    "a132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569ea37c307a3078060a"
    "2b0601040183a25a0101046a3068042408011220a77f1d92fedb59dddaea5a1c4abd1ac2fbde7d7b879ed364501809923d7c11b90440d90d2769"
    "db992d5e6195dbb08e706b6651e024fda6cfb8846694a435519941cac215a8207792e42849cccc6cd8136c6e4bde92a58c5e08cfd4206eb5fe0b"
    "f909300a06082a8648ce3d0403020346003043021f50f6b6c52711a881778718238f650c9fb48943ae6ee6d28427dc6071ae55e702203625f116"
    "a7a454db9c56986c82a25682f7248ea1cb764d322ea983ed36a31b77"
)
INVALID_LIBP2P = bytes.fromhex(
    "308201f73082019da0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e696f310a300806"
    "035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a302031123010060355040a13096c696270"
    "32702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca85e27c73c263b"
    "a132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569ea381c23081bf3081"
    "bc060a2b0601040183a25a01010481ad3081aa045f0803125b3059301306072a8648ce3d020106082a8648ce3d03010703420004bf30511f9094"
    "14ebdd3242178fd290f093a551cf75c973155de0bb5a96fedf6cb5d52da7563e794b512f66e60c7f55ba8a3acf3dd72a801980d205e8a1ad29f2"
    "04473045022100bb6e03577b7cc7a3cd1558df0da2b117dfdcc0399bc2504ebe7de6f65cade72802206de96e2a5be9b6202adba24ee0362e4906"
    "41ac45c240db71fe955f2c5cf8df6e300a06082a8648ce3d0403020348003045022100e847f267f43717358f850355bdcabbefb2cfbf8a3c043b"
    "203a14788a092fe8db022027c1d04a2d41fd6b57a7e8b3989e470325de4406e52e084e34a3fd56eef0d0df"
)
LIBP2P_ID = "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv"


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def pem(encoded: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(encoded) + b"-----END CERTIFICATE-----\n"


def issued(builder: x509.CertificateBuilder, issuer: Identity) -> bytes:
    return issuer.issue(builder).public_bytes(Encoding.DER)


def unsigned_by(issuer: x509.Name) -> x509.CertificateBuilder:
    days = datetime(2020, 1, 1), datetime(2090, 1, 1)
    return x509.CertificateBuilder(issuer, named("tls"), new_key().public_key(), x509.random_serial_number(), *days)


def base58(raw: bytes) -> str:
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + text
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + text


# -- ours --------------------------------------------------------------------------------------------------------------


def test_a_server_is_whoever_issued_its_leaf() -> None:
    assert peer_behind_server(der(server_leaf(ME).certificate)) == ME.peer_id


def test_a_client_is_whoever_vouches_for_its_key() -> None:
    assert peer_behind_client(client_leaf(ME).certificate) == ME.peer_id
    assert client_leaf(ME) is client_leaf(ME)


def test_neither_certificate_serves_as_the_other() -> None:
    with pytest.raises(ProtocolError):
        peer_behind_client(server_leaf(ME).certificate)
    with pytest.raises(ProtocolError):
        peer_behind_server(der(client_leaf(ME).certificate))


def test_each_leaf_has_a_key_of_its_own() -> None:
    assert len({server_leaf(ME).key, server_leaf(ME).key, client_leaf(ME).key, client_leaf(OTHER).key}) == 4


def test_private_keys_are_not_printed() -> None:
    assert "PRIVATE" not in repr(server_leaf(ME))


def test_no_clock_is_so_wrong_that_a_certificate_is_not_valid() -> None:
    pems = [server_leaf(ME).certificate, client_leaf(ME).certificate]
    for certificate in [*map(x509.load_pem_x509_certificate, pems), anchor_of(ME.peer_id), open_ca()]:
        assert certificate.not_valid_before_utc.year == 1970
        assert certificate.not_valid_after_utc.year == 9999


def test_callers_are_remembered_within_bounds() -> None:
    assert peer_behind_client.cache_info().maxsize == 1024
    assert len(client_leaf(ME).certificate) < MAX_CERTIFICATE_BYTES / 4
    with pytest.raises(ProtocolError, match="more than 4096"):
        peer_behind_client(client_leaf(ME).certificate + b"\n" * MAX_CERTIFICATE_BYTES)


# -- libp2p's ----------------------------------------------------------------------------------------------------------


def test_the_extension_is_the_one_of_libp2p() -> None:
    peer = peer_behind_client(pem(VALID_LIBP2P))
    as_libp2p_spells_it = b"\x00\x24\x08\x01\x12\x20" + base64.b32decode(peer.upper() + "====")
    assert base58(as_libp2p_spells_it) == LIBP2P_ID


def test_the_extension_of_another_key_is_refused() -> None:
    with pytest.raises(ProtocolError):
        peer_behind_client(pem(INVALID_LIBP2P))


# -- others' -----------------------------------------------------------------------------------------------------------


def test_a_server_leaf_of_a_forged_issuer() -> None:
    with pytest.raises(ProtocolError, match="not issued by a peer id"):
        peer_behind_server(issued(server_form(ME.peer_id, new_key()), OTHER))


def test_a_server_leaf_signed_by_its_own_key() -> None:
    key = new_key()
    with pytest.raises(ProtocolError):
        peer_behind_server(server_form(ME.peer_id, key).sign(key, SHA256()).public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    "issuer", ["localhost", ME.peer_id.upper(), ME.peer_id[:-1], "a" * 52], ids=["a name", "capitals", "short", "no key"]
)
def test_a_server_leaf_of_an_issuer_that_is_no_id(issuer: str) -> None:
    with pytest.raises(ProtocolError):
        peer_behind_server(issued(server_form(issuer, new_key()), ME))


@pytest.mark.parametrize("names", [[], [NameOID.ORGANIZATION_NAME], [NameOID.COMMON_NAME, NameOID.COMMON_NAME]])
def test_a_server_leaf_whose_issuer_is_not_one_id(names: list[x509.ObjectIdentifier]) -> None:
    issuer = x509.Name([x509.NameAttribute(name, ME.peer_id) for name in names])
    with pytest.raises(ProtocolError):
        peer_behind_server(issued(unsigned_by(issuer), ME))


def test_the_open_ca_is_nobody() -> None:
    key = new_key()
    with pytest.raises(Refused, match="known to everybody"):
        peer_behind_server(issued(server_form(OPEN_CA_IDENTITY.peer_id, key), OPEN_CA_IDENTITY))
    with pytest.raises(Refused, match="known to everybody"):
        peer_behind_client(client_leaf(OPEN_CA_IDENTITY).certificate)
    with pytest.raises(Refused, match="known to everybody"):
        anchor_of(OPEN_CA_IDENTITY.peer_id)


def test_a_signature_under_a_key_of_nobody_proves_nothing() -> None:
    """Or there would be ids that everybody can use: see the test of such keys among the identities."""
    neutral = bytes([1]) + bytes(31)
    key = new_key()
    extension = bytes.fromhex("3068 0424 08011220") + neutral + b"\x04\x40" + neutral + bytes(32)
    with pytest.raises(ProtocolError):
        peer_behind_client(client_leaf_with(extension, key).certificate)


def test_a_client_leaf_without_an_identity() -> None:
    with pytest.raises(ProtocolError, match="names no identity"):
        peer_behind_client(client_leaf_with(None, new_key()).certificate)


def test_a_client_leaf_with_a_stolen_identity() -> None:
    stolen = signed_key.encode(ME, new_key().public_key())
    with pytest.raises(ProtocolError, match="did not sign its key"):
        peer_behind_client(client_leaf_with(stolen, new_key()).certificate)


def test_nothing_but_the_extension_counts() -> None:
    key = new_key()
    leaf = client_leaf_with(signed_key.encode(OTHER, key.public_key()), key, subject=ME.peer_id)
    assert peer_behind_client(leaf.certificate) == OTHER.peer_id


@pytest.mark.parametrize("junk", [b"", b"\0", b"-----BEGIN CERTIFICATE-----\n", pem(b""), pem(b"0" * 300), b"\xff" * 500])
def test_junk(junk: bytes) -> None:
    with pytest.raises(ProtocolError):
        peer_behind_client(junk)
    with pytest.raises(ProtocolError):
        peer_behind_server(junk)


# -- mutations ---------------------------------------------------------------------------------------------------------


def mutated(good: bytes, chance: random.Random) -> bytes:
    bad = bytearray(good)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(bad))
        match chance.randrange(4):
            case 0:
                bad[at] ^= 1 << chance.randrange(8)
            case 1:
                del bad[at : at + chance.randint(1, 4)]
            case 2:
                bad[at:at] = chance.randbytes(chance.randint(1, 4))
            case _:
                bad[at] = chance.choice([0, 1, 3, 4, 5, 6, 0x13, 0x30, 0x80, 0x81, 0xFF])
    return bytes(bad)


def identity_of(extension: bytes, key: ec.EllipticCurvePublicKey) -> PeerId | None:
    try:
        return signed_key.check(extension, key)
    except ProtocolError:
        return None


def test_no_mutated_extension_is_accepted() -> None:
    chance, key = random.Random(3), new_key().public_key()
    good = signed_key.encode(ME, key)
    bad = {mutated(good, chance) for _ in range(2000)} - {good}
    bad |= {good[:i] + bytes([good[i] ^ 1 << bit]) + good[i + 1 :] for i in range(len(good)) for bit in range(8)}
    bad |= {good[:length] for length in range(len(good))} | {good + b"\0", good * 2}
    assert identity_of(good, key) == ME.peer_id
    assert [extension for extension in bad if identity_of(extension, key) is not None] == []


def test_no_mutated_extension_is_accepted_inside_a_certificate() -> None:
    chance, key = random.Random(4), new_key()
    good = signed_key.encode(ME, key.public_key())
    bad = {mutated(good, chance) for _ in range(300)} - {good}
    assert len(bad) > 250
    for extension in bad:
        with pytest.raises(ProtocolError):
            peer_behind_client(client_leaf_with(extension, key).certificate)


def peer_behind_der(encoded: bytes) -> PeerId:
    return peer_behind_client(pem(encoded))


@pytest.mark.parametrize(
    ("good", "peer_behind"),
    [(der(client_leaf(ME).certificate), peer_behind_der), (der(server_leaf(ME).certificate), peer_behind_server)],
    ids=["client", "server"],
)
def test_a_mutated_certificate_is_refused_or_names_the_same_peer(good: bytes, peer_behind: Callable[[bytes], PeerId]) -> None:
    """TLS checks the rest. Whoever changes the identity has none."""
    chance, refused = random.Random(5), 0
    for _ in range(3000):
        try:
            assert peer_behind(mutated(good, chance)) == ME.peer_id
        except ProtocolError:
            refused += 1
    assert refused > 2000


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_random_bytes_are_no_certificate(junk: bytes) -> None:
    test_junk(junk)
    test_junk(pem(junk))
