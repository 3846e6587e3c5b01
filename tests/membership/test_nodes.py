"""Gossip between real nodes: they find each other, outlive their seeds, and believe nobody but by signature."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from dsd_core.errors import ProtocolError, Refused, UsageError
from dsd_core.membership.events import Gossip, Held, Passed
from dsd_core.membership.ids import Handle, handle_of
from dsd_core.membership.record import SignedRecord, State
from dsd_core.network.address import Address
from dsd_core.network.identity import Identity, public_bytes_of
from dsd_core.network.join_token import JoinToken
from dsd_core.network.last_swarm import LastSwarm
from dsd_core.network.signed_record import require_signature
from dsd_core.network.status import error_of
from dsd_core.network.stubs import peer_stub
from dsd_core.network.swarm_secret import PROOF_KEY, proof, swarm_id
from dsd_core.network.transport import Secure
from dsd_core.wire.gossip import request_to_wire, response_from_wire
from dsd_core.wire.records import record_to_wire, signed_from_wire
from dsd_core.wire.v1 import peer_pb2
from tests.conftest import eventually
from tests.membership.conftest import HOLDING, signed_by
from tests.membership.nodes import GossipNode
from tests.ports import free_port

Start = Callable[..., Awaitable[GossipNode]]
MALLORY = Identity.ephemeral()
SECONDS = 20.0


@pytest_asyncio.fixture(loop_scope="session")
async def start() -> AsyncIterator[Start]:
    nodes: list[GossipNode] = []

    async def start(*join: str, **options: Any) -> GossipNode:
        nodes.append(await GossipNode.start(join, **options))
        return nodes[-1]

    yield start
    await asyncio.gather(*(node.kill() for node in nodes if not node.running.done()))


async def all_know(*nodes: GossipNode) -> None:
    """Returns when each of them knows all of them, and nobody else."""
    everybody = {node.peer for node in nodes}
    await eventually(lambda: all(node.knows == everybody for node in nodes), SECONDS)


async def ask(node: GossipNode, gossip: Gossip, transport: Secure | None = None) -> Gossip:
    """Raises what the node answers instead."""
    channel = (transport or Secure.kept_in(None)).channel(node.address, node.peer)
    try:
        return response_from_wire(await peer_stub(channel).Exchange(request_to_wire(gossip), timeout=5))
    except grpc.aio.AioRpcError as failure:
        raise error_of(failure, "the node") from None
    finally:
        await channel.close()


def bringing(*records: SignedRecord) -> Gossip:
    return Gossip(records=tuple(Passed(signed, 1.0) for signed in records))


# -- finding each other ------------------------------------------------------------------------------------------------


async def test_a_node_alone_is_a_swarm_of_its_own(start: Start) -> None:
    node = await start()
    await all_know(node)
    assert JoinToken.decode(node.token) == JoinToken(((node.address, node.peer),))


async def test_a_node_that_was_alone_waits_for_nobody_when_it_comes_back(start: Start, tmp_path: Path) -> None:
    alone = await start(data_dir=tmp_path)
    await eventually(lambda: len(_kept(tmp_path)) == 1, SECONDS)
    await alone.kill()
    again = await start(data_dir=tmp_path)
    assert again.peer == alone.peer
    assert not again.seat.has_seeds
    newcomer = await start(again.token)
    assert newcomer.seat.has_seeds


async def test_nodes_that_know_one_seed_find_each_other_and_outlive_it(start: Start) -> None:
    seed = await start()
    second, third = await start(str(seed.address)), await start(seed.token)
    await all_know(seed, second, third)
    await seed.kill()
    await all_know(second, third)
    fourth = await start(second.token)
    await all_know(second, third, fourth)


async def test_a_seed_is_needed_only_once(start: Start, tmp_path: Path) -> None:
    seed = await start()
    second = await start(seed.token)
    third = await start(str(seed.address), data_dir=tmp_path)
    await all_know(seed, second, third)
    await eventually(lambda: len(_kept(tmp_path)) == 3, SECONDS)
    await seed.kill()
    await third.kill()
    await all_know(second)
    again = await start(data_dir=tmp_path)
    assert again.peer == third.peer
    await all_know(second, again)


def _kept(data_dir: Path) -> tuple[object, ...]:
    token = LastSwarm(data_dir).read()
    return token.seeds if token else ()


async def test_a_seed_that_is_not_there_yet_is_tried_again(start: Start) -> None:
    port = free_port()
    early = await start(f"127.0.0.1:{port}")
    late = await start(port=port)
    await all_know(early, late)


async def test_the_token_names_those_who_are_known(start: Start) -> None:
    first = await start()
    second = await start(first.token)
    await all_know(first, second)
    assert JoinToken.decode(second.token).seeds == ((second.address, second.peer), (first.address, first.peer))


async def test_who_leaves_says_so(start: Start) -> None:
    first = await start()
    second = await start(first.token)
    await all_know(first, second)
    await second.seat.gossiper.leave()
    assert first.seat.gossiper._membership.table[handle_of(second.peer)].record.state is State.DRAINING


async def test_records_say_how_far_others_are(start: Start) -> None:
    first = await start()
    second = await start(first.token)
    await all_know(first, second)
    await eventually(lambda: len(second.seat.gossiper._round_trips.seconds()) == 1, SECONDS)
    second.seat.gossiper.say(second.seat.gossiper._statement)  # type: ignore[arg-type]
    await eventually(lambda: _round_trip(first, second) is not None, SECONDS)


def _round_trip(at: GossipNode, of: GossipNode) -> float | None:
    member = at.seat.gossiper._membership.table[handle_of(of.peer)]
    return member.record.round_trip_to(at.peer)


async def test_a_client_gets_all_records_in_one_call(start: Start) -> None:
    first = await start()
    second = await start(first.token)
    await all_know(first, second)
    channel = Secure.kept_in(None).channel(second.address, second.peer)
    for manifest_hash, expected in ((b"", 2), (bytes.fromhex(HOLDING.manifest_hash), 2), (b"\0" * 32, 0)):
        answer = await peer_stub(channel).ListPeers(peer_pb2.ListPeersRequest(manifest_hash=manifest_hash), timeout=5)
        found = list(map(signed_from_wire, answer.records))
        assert len(found) == expected
        for signed in found:
            require_signature(signed)
    await channel.close()


async def test_a_peer_is_tried_on_behalf_of_another(start: Start) -> None:
    first = await start()
    second = await start(first.token)
    await all_know(first, second)
    channel = Secure.kept_in(None).channel(first.address, first.peer)
    tried = [(second.peer, True), (Identity.ephemeral().peer_id, False)]
    for peer, alive in tried:
        answer = await peer_stub(channel).Probe(peer_pb2.ProbeRequest(peer=public_bytes_of(peer)), timeout=5)
        assert answer.alive is alive
    with pytest.raises(grpc.aio.AioRpcError, match="not a peer id"):
        await peer_stub(channel).Probe(peer_pb2.ProbeRequest(peer=b"nobody"), timeout=5)
    await channel.close()


# -- what is not believed ----------------------------------------------------------------------------------------------


async def test_a_forged_record_spoils_the_message_and_nothing_else(start: Start) -> None:
    node = await start()
    good, posed = signed_by(Identity.ephemeral()), replace(signed_by(Identity.ephemeral()), signature=b"s" * 64)
    with pytest.raises(ProtocolError, match="is not signed by that peer"):
        await ask(node, bringing(good, posed))
    assert node.knows == {node.peer}
    await ask(node, bringing(good))
    assert node.knows == {node.peer, good.record.peer}


async def test_nobody_speaks_for_another(start: Start) -> None:
    """As anybody may with a table that the last writer wins."""
    first = await start()
    second = await start(first.token)
    await all_know(first, second)
    record = first.seat.gossiper._membership.table[handle_of(second.peer)].record
    taken = signed_by(MALLORY, addresses=(Address("127.0.0.9", 9),))
    moved = replace(taken.record, peer=second.peer, sequence=record.sequence + 1)
    content = record_to_wire(moved).SerializeToString()
    with pytest.raises(ProtocolError, match="not signed"):
        await ask(first, bringing(SignedRecord(moved, content, MALLORY.sign(b"dsd-record-v1", content))))
    assert first.seat.gossiper._membership.table[handle_of(second.peer)].record.addresses == (second.address,)


async def test_a_replayed_record_changes_nothing(start: Start) -> None:
    node = await start()
    identity = Identity.ephemeral()
    old, new = signed_by(identity, 1), signed_by(identity, 2)
    for signed in (new, old, new):
        await ask(node, bringing(signed))
    assert node.seat.gossiper._membership.table[handle_of(identity.peer_id)].sequence == 2


async def test_a_record_that_ran_out_is_not_believed_again(start: Start) -> None:
    node = await start()
    short = signed_by(Identity.ephemeral(), ttl_seconds=1)
    await ask(node, bringing(short))
    assert short.record.peer in node.knows
    await eventually(lambda: short.record.peer not in node.knows, SECONDS)
    await ask(node, bringing(short))
    assert short.record.peer not in node.knows


@pytest.mark.parametrize(
    "request_",
    [
        peer_pb2.ExchangeRequest(records=[peer_pb2.SignedRecord(record=b"r" * 4000, signature=b"s" * 64)]),
        peer_pb2.ExchangeRequest(records=[peer_pb2.SignedRecord(record=b"r", signature=b"s" * 64)]),
        peer_pb2.ExchangeRequest(records=[peer_pb2.SignedRecord()] * 2000),
        peer_pb2.ExchangeRequest(held=peer_pb2.Digest(peers=b"p" * 9, sequences=[1])),
        peer_pb2.ExchangeRequest(held=peer_pb2.Digest(peers=b"p" * 20, sequences=[1, 2])),
        peer_pb2.ExchangeRequest(held=peer_pb2.Digest(sequences=[1] * 5000)),
        peer_pb2.ExchangeRequest(held=peer_pb2.Digest(), first=b"short"),
        peer_pb2.ExchangeRequest(suspected=peer_pb2.Digest(sequences=[1] * 5000)),
    ],
)
async def test_a_malformed_exchange_is_refused(start: Start, request_: peer_pb2.ExchangeRequest) -> None:
    node = await start()
    channel = Secure.kept_in(None).channel(node.address, node.peer)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await peer_stub(channel).Exchange(request_, timeout=5)
    assert isinstance(error_of(caught.value, "the node"), ProtocolError)
    assert node.knows == {node.peer}
    await channel.close()


async def test_a_record_of_a_newer_release_is_passed_over(start: Start) -> None:
    node, identity = await start(), Identity.ephemeral()
    said = peer_pb2.PeerRecord.FromString(signed_by(identity).content)
    said.state = 9  # type: ignore[assignment]
    newer = said.SerializeToString()
    request = request_to_wire(bringing(signed_by(Identity.ephemeral())))
    request.records.add(record=newer, signature=identity.sign(b"dsd-record-v1", newer))
    channel = Secure.kept_in(None).channel(node.address, node.peer)
    await peer_stub(channel).Exchange(request, timeout=5)
    assert len(node.knows) == 2
    await channel.close()


async def test_two_nodes_with_one_key_are_told(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = await start()
    await start(first.token, data_dir=tmp_path)
    with caplog.at_level(logging.ERROR, "dsd_node.membership.gossip"):
        await start(first.token, data_dir=tmp_path)
        await eventually(lambda: "uses this node's key" in caplog.text, SECONDS)
    await eventually(lambda: len(first.knows) == 2, SECONDS)


async def test_a_suspicion_that_a_stranger_makes_up_is_refuted(start: Start) -> None:
    first = await start()
    second = await start(first.token)
    await all_know(first, second)
    sequence = first.seat.gossiper._membership.table[handle_of(second.peer)].sequence
    await ask(first, Gossip(suspected={handle_of(second.peer): sequence}))
    assert first.knows == {first.peer}
    await all_know(first, second)
    assert first.seat.gossiper._membership.table[handle_of(second.peer)].sequence > sequence


# -- private swarms ----------------------------------------------------------------------------------------------------

ALL = Held({}, Handle(b""), Handle(b""))


async def test_a_private_swarm_is_for_those_who_hold_its_token(start: Start, tmp_path: Path) -> None:
    first = await start(private=True, data_dir=tmp_path)
    second = await start(first.token)
    await all_know(first, second)
    stranger = await start(str(first.address))
    with pytest.raises(Refused, match="this swarm is private"):
        await ask(first, Gossip(held=ALL))
    assert stranger.knows == {stranger.peer}
    assert first.knows == second.knows == {first.peer, second.peer}


async def test_a_private_swarm_is_the_same_after_a_restart(start: Start, tmp_path: Path) -> None:
    first = await start(private=True, data_dir=tmp_path)
    second = await start(first.token)
    await all_know(first, second)
    await eventually(lambda: len(_kept(tmp_path)) == 2, SECONDS)
    await first.kill()
    await all_know(second)
    again = await start(data_dir=tmp_path)
    await all_know(second, again)
    assert JoinToken.decode(again.token).secret == JoinToken.decode(second.token).secret


async def test_no_call_of_any_service_passes_without_the_secret(start: Start) -> None:
    node = await start(private=True)
    channel = Secure.kept_in(None).channel(node.address, node.peer)
    calls = [
        peer_stub(channel).Exchange(peer_pb2.ExchangeRequest(), timeout=5),
        peer_stub(channel).Probe(peer_pb2.ProbeRequest(), timeout=5),
        peer_stub(channel).ListPeers(peer_pb2.ListPeersRequest(), timeout=5),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError, match="this swarm is private"):
            await call
    await channel.close()


@pytest.mark.parametrize("whose", ["another caller", "another server", "another secret", "the other way round", "noise"])
async def test_a_proof_is_of_one_secret_for_one_caller_at_one_server(start: Start, whose: str) -> None:
    node, caller = await start(private=True), Secure.kept_in(None)
    secret = JoinToken.decode(node.token).secret
    assert secret is not None
    other = Identity.ephemeral().peer_id
    shown = {
        "another caller": proof(secret, other, node.peer),
        "another server": proof(secret, caller.peer_id, other),
        "another secret": proof(b"s" * 32, caller.peer_id, node.peer),
        "the other way round": proof(secret, node.peer, caller.peer_id),
        "noise": "ff" * 32,
    }[whose]
    channel = caller.channel(node.address, node.peer)
    right = ((PROOF_KEY, proof(secret, caller.peer_id, node.peer)),)
    await peer_stub(channel).ListPeers(peer_pb2.ListPeersRequest(), metadata=right, timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match="this swarm is private"):
        await peer_stub(channel).ListPeers(peer_pb2.ListPeersRequest(), metadata=((PROOF_KEY, shown),), timeout=5)
    await channel.close()


async def test_a_record_of_another_swarm_is_not_taken(start: Start) -> None:
    node = await start(private=True)
    secret = JoinToken.decode(node.token).secret
    member = Secure.kept_in(None, secret)
    await ask(node, bringing(signed_by(member.identity), signed_by(Identity.ephemeral(), swarm=b"other")), member)
    assert node.knows == {node.peer}
    await ask(node, bringing(signed_by(member.identity, swarm=swarm_id(secret or b""))), member)
    assert node.knows == {node.peer, member.peer_id}


async def test_what_cannot_be_private(tmp_path: Path, start: Start) -> None:
    public = await start()
    for join in (public.token, str(public.address)):
        with pytest.raises(UsageError, match="no private swarm"):
            await start(join, private=True)
