"""HOST:PORT, as people write it and as nobody should."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.errors import UsageError
from dsd_core.network.address import Address
from dsd_core.network.transport import Plaintext


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4100", "127.0.0.1", 4100),
        ("localhost:0", "localhost", 0),
        ("node.example.org:65535", "node.example.org", 65535),
        ("[::1]:4100", "::1", 4100),
    ],
)
def test_an_address(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "localhost",
        "4100",
        ":4100",
        "localhost:",
        "localhost:port",
        "localhost:-1",
        "localhost:65536",
        "localhost:4100.0",
        "localhost:+41",
        "localhost:٤١",
        "localhost: 4100",
        "http://localhost:4100",
        "localhost:4100/",
        "::1:4100",
        "::1",
        "[::1]",
        "[::1:4100",
        "::1]:4100",
        "[]:4100",
        "local host:4100",
        "a\n:1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="is not an address; write HOST:PORT") as caught:
        Address.parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except UsageError:
        return
    assert Address.parse(str(address)) == address


PLAIN = Plaintext()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback(host: str) -> None:
    Address(host, 4100).require_loopback()


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "example.org", "localhost.example.org", "128.0.0.1", "127.1"])
def test_beyond_loopback_nothing_is_done_in_the_clear(host: str) -> None:
    with pytest.raises(UsageError, match="not a loopback address"):
        Address(host, 4100).require_loopback()
    with pytest.raises(UsageError, match="not a loopback address"):
        PLAIN.channel(Address(host, 4100), PLAIN.peer_id)
