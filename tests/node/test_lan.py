"""Multicast DNS, on the loopback interface alone."""

from contextlib import AsyncExitStack

from dsd_core.membership.ids import PeerId
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity
from dsd_node.membership.lan import addresses_of_this_machine, lan
from tests.conftest import eventually

LOOPBACK = ["127.0.0.1"]
SECONDS = 20.0


async def test_nodes_of_one_swarm_find_each_other() -> None:
    peers = [Identity.ephemeral().peer_id for _ in range(3)]
    swarms = [b"ours", b"ours", b"theirs"]
    met: dict[PeerId, dict[PeerId, tuple[Address, ...]]] = {peer: {} for peer in peers}
    async with AsyncExitStack() as stack:
        for index, (peer, swarm) in enumerate(zip(peers, swarms, strict=True)):
            here = Address("127.0.0.1", 4100 + index)
            await stack.enter_async_context(lan(peer, swarm, here, met[peer].__setitem__, LOOPBACK))
        await eventually(lambda: len(met[peers[0]]) == len(met[peers[1]]) == 1, SECONDS)
    assert met == {
        peers[0]: {peers[1]: (Address("127.0.0.1", 4101),)},
        peers[1]: {peers[0]: (Address("127.0.0.1", 4100),)},
        peers[2]: {},
    }


def test_a_port_on_all_interfaces_has_addresses_to_dial() -> None:
    found = addresses_of_this_machine(4100)
    assert found
    assert all(address.port == 4100 and not address.is_unspecified for address in found)
