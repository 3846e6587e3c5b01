"""Peers of different releases: they agree at once, or part politely (R13)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_client import Client
from dsd_client import stage as client_stage
from dsd_client import swarm as client_swarm
from dsd_core.errors import Refused
from dsd_core.wire.versions import Versions, versions_from_wire
from dsd_node import service
from tests.conftest import LAYERS, InProcessSwarm, TinyModel

RELEASES = [Versions(1, 1), Versions(1, 2), Versions(3, 3)]
"""One before the other, one that still speaks the older, and one that has left both behind."""

VERSIONS = st.tuples(st.integers(1, 50), st.integers(1, 50)).map(lambda pair: Versions(min(pair), max(pair)))


@given(VERSIONS, VERSIONS)
def test_both_sides_come_to_the_same(ours: Versions, theirs: Versions) -> None:
    common = set(range(ours.oldest, ours.newest + 1)) & set(range(theirs.oldest, theirs.newest + 1))
    for one, other in ((ours, theirs), (theirs, ours)):
        if common:
            assert one.agree(other, peer="the peer") == max(common)
        else:
            with pytest.raises(Refused, match="update DSD on"):
                one.agree(other, peer="the peer")


def test_the_refusal_says_who_has_to_update() -> None:
    with pytest.raises(Refused, match=r"the peer speaks protocol 1, this side 2 to 3; update DSD on the peer$"):
        Versions(2, 3).agree(Versions(1, 1), peer="the peer")
    with pytest.raises(Refused, match=r"update DSD on this side$"):
        Versions(1, 1).agree(Versions(2, 3), peer="the peer")


def test_a_peer_that_names_no_oldest_version_speaks_one() -> None:
    assert versions_from_wire(2, 0) == Versions(2, 2)
    assert versions_from_wire(3, 2) == Versions(2, 3)
    assert versions_from_wire(1, 7) == Versions(1, 1)


@pytest.mark.parametrize("ours", RELEASES, ids=str)
@pytest.mark.parametrize("theirs", RELEASES, ids=str)
async def test_every_release_with_every_other(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch, ours: Versions, theirs: Versions
) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    monkeypatch.setattr(service, "VERSIONS", theirs)
    for module in (client_swarm, client_stage):
        monkeypatch.setattr(module, "VERSIONS", ours)
    client = Client([node.address], str(target), "none")
    if {ours.newest, theirs.newest} <= {1, 2} or ours == theirs:
        async with client:
            assert len((await client.generate([5, 6, 7], max_new_tokens=2)).token_ids) == 2
    else:
        with pytest.raises(Refused, match="update DSD on"):
            await client.__aenter__()
        assert node.sessions == 0
