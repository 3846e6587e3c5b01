import pytest

from dsd_client.stage import Stage, are_here
from dsd_core.membership.ids import PeerId
from dsd_core.network.address import Address
from dsd_core.wire.v1 import stage_pb2


def stage(host: str) -> Stage:
    return Stage(Address(host, 4100), PeerId(host), None, stage_pb2.DescribeResponse(), 0.0)  # type: ignore[arg-type]  # nobody is called


@pytest.mark.parametrize(
    ("hosts", "here"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.1", "localhost", "::1"], True),
        (["127.0.0.1", "192.0.2.7"], False),
        (["node.example.org"], False),
    ],
)
def test_stages_are_here_if_all_are_reached_over_loopback(hosts: list[str], here: bool) -> None:
    assert are_here([stage(host) for host in hosts]) is here
