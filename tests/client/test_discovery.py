"""A client that is told of one peer finds the others, and those that lie about themselves cost nobody else anything."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_asyncio

from dsd_client import Client, swarm
from dsd_core.errors import NoPeers, ProtocolError, Refused, UsageError
from dsd_core.membership.record import Capacity, Holding, Role, State
from dsd_core.network.address import Address
from dsd_core.network.join_token import JoinToken
from dsd_core.network.last_swarm import LastSwarm
from dsd_core.network.transport import Secure
from dsd_node.membership.peer_service import PeerService
from dsd_node.membership.seat import Seat, find_seeds
from dsd_node.membership.statement import Statement
from tests.conftest import LAYERS, InProcessNode, InProcessSwarm, TinyModel, eventually

SECONDS = 20.0


@dataclass
class Members:
    """Nodes that gossip and serve, in this process."""

    model: TinyModel
    swarm: InProcessSwarm = field(default_factory=InProcessSwarm)
    seats: list[Seat] = field(default_factory=list)
    running: "list[asyncio.Task[None]]" = field(default_factory=list)

    async def start(
        self, layers: range, join: Sequence[str] = (), *, claims: Holding | None = None, private: bool = False
    ) -> InProcessNode:
        """A node that holds `layers`, and says that it holds `claims`."""
        seeds = find_seeds(join, private=private, data_dir=None)
        transport = Secure.kept_in(None, seeds.secret)
        seat = Seat(transport, seeds, None, round_seconds=0.05)
        node = await self.swarm.start(self.model, layers, transport=transport, peers=PeerService(seat.gossiper))
        address = Address.parse(node.address)
        said = Statement((address,), Role.TARGET, State.SERVING, claims or self.holding(layers), Capacity(1000, 1000))
        seat.gossiper.say(lambda: said)
        self.seats.append(seat)
        self.running.append(asyncio.create_task(seat.run(address, on_lan=False)))
        await self.all_known()
        return node

    def holding(self, layers: range) -> Holding:
        source = self.model.source
        shape = (source.num_layers, source.hidden_size, source.vocab_size, source.max_positions)
        return Holding("target", source.manifest_hash, "float32", layers, *shape)

    def token(self, node: InProcessNode) -> str:
        return self.seats[self.swarm.nodes.index(node)].token(Address.parse(node.address)).encode()

    async def kill(self, node: InProcessNode) -> None:
        index = self.swarm.nodes.index(node)
        self.running[index].cancel()
        await asyncio.wait([self.running[index]])
        await node.kill()

    async def all_known(self) -> None:
        seats = [seat for seat, run in zip(self.seats, self.running, strict=True) if not run.done()]
        await eventually(lambda: all(len(seat.gossiper.records) == len(seats) for seat in seats), SECONDS)


@pytest_asyncio.fixture(loop_scope="session")
async def members(target: TinyModel) -> AsyncIterator[Members]:
    members = Members(target)
    yield members
    for run in members.running:
        run.cancel()
    await asyncio.gather(*members.running, return_exceptions=True)
    await members.swarm.stop()


async def answer(target: TinyModel, join: Sequence[str] = (), data_dir: Path | None = None) -> tuple[int, ...]:
    async with Client(join, str(target), "none", data_dir=data_dir, timeout=10) as client:
        result = await client.generate("the quick", max_new_tokens=6, speculation="off")
    return tuple(result.token_ids)


@pytest.mark.parametrize("by", ["address", "token"])
async def test_one_peer_is_enough_to_find_the_others(members: Members, target: TinyModel, by: str) -> None:
    first = await members.start(range(2))
    second = await members.start(range(2, LAYERS), [first.address])
    alone = JoinToken(((Address.parse(second.address), second.peer),)).encode()
    assert len(await answer(target, [second.address if by == "address" else alone])) == 6


async def test_a_peer_is_named_once_and_may_be_gone_the_next_time(members: Members, target: TinyModel, tmp_path: Path) -> None:
    seed = await members.start(range(LAYERS))
    await members.start(range(2), [seed.address])
    await members.start(range(2, LAYERS), [seed.address])
    expected = await answer(target, [seed.address], tmp_path)
    kept = LastSwarm(tmp_path).read()
    assert kept is not None
    assert {peer for _, peer in kept.seeds} == {node.peer for node in members.swarm.nodes}
    await members.kill(seed)
    assert await answer(target, (), tmp_path) == expected


async def test_who_remembers_nobody_has_to_name_somebody(target: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(NoPeers, match="no peer was named"):
        await answer(target, (), tmp_path)


async def test_a_damaged_memory_is_named(target: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "swarm.token").write_text("dsd1nonsense\n")
    (tmp_path / "swarm.token").chmod(0o600)
    with pytest.raises(UsageError, match=r"swarm\.token is damaged"):
        await answer(target, (), tmp_path)


async def test_a_seed_of_another_model_knows_who_serves_this_one(
    members: Members, target: TinyModel, stranger: TinyModel
) -> None:
    whole = await members.start(range(LAYERS))
    other = Members(stranger, members.swarm, members.seats, members.running)
    seed = await other.start(range(LAYERS), [whole.address])
    assert len(await answer(target, [seed.address])) == 6


@pytest.mark.parametrize("lie", ["another model", "another span", "another shape"])
async def test_who_is_not_what_its_record_says_is_left_out(
    members: Members, target: TinyModel, stranger: TinyModel, lie: str, caplog: pytest.LogCaptureFixture
) -> None:
    honest = await members.start(range(LAYERS))
    truth = members.holding(range(2))
    if lie == "another model":
        await Members(stranger, members.swarm, members.seats, members.running).start(
            range(2), [honest.address], claims=truth
        )
    elif lie == "another span":
        await members.start(range(2, LAYERS), [honest.address], claims=truth)
    else:
        await members.start(range(2), [honest.address], claims=replace(truth, hidden_size=64))
    with caplog.at_level(logging.INFO, "dsd_client.swarm"):
        assert len(await answer(target, [honest.address])) == 6
    assert "is not what its record says" in caplog.text


async def test_of_many_claims_the_oldest_channel_is_closed(
    one_stage: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm, "MAX_CHANNELS", 3)
    address = Address.parse(one_stage.addresses[0])
    async with Client(one_stage.addresses, str(target), "none") as client:
        known = client._swarm
        assert known is not None
        claims = [Secure.kept_in(None).peer_id for _ in range(5)]
        for claim in claims:
            await known._channel(address)
            await known._channel_to(address, claim)
        assert list(known._channels) == [(address, peer) for peer in (claims[-2], one_stage.nodes[0].peer, claims[-1])]
        assert len((await client.generate([5, 6, 7], max_new_tokens=3)).token_ids) == 3


async def test_a_liar_may_be_what_is_missing(members: Members, target: TinyModel) -> None:
    first = await members.start(range(2))
    await members.start(range(2), [first.address], claims=members.holding(range(2, LAYERS)))
    with pytest.raises(ProtocolError, match="is not what its record says"):
        await answer(target, [first.address])


async def test_a_private_swarm_serves_those_who_hold_its_token(members: Members, target: TinyModel, tmp_path: Path) -> None:
    first = await members.start(range(2), private=True)
    await members.start(range(2, LAYERS), [members.token(first)])
    with pytest.raises(Refused, match="this swarm is private"):
        await answer(target, [first.address])
    expected = await answer(target, [members.token(first)], tmp_path)
    assert await answer(target, (), tmp_path) == expected


def test_tokens_of_two_swarms(target: TinyModel) -> None:
    public = JoinToken(((Address("127.0.0.1", 1), Secure.kept_in(None).peer_id),)).encode()
    private = JoinToken(((Address("127.0.0.1", 1), Secure.kept_in(None).peer_id),), b"swarm", b"s" * 32).encode()
    with pytest.raises(UsageError, match="different swarms"):
        Client([public, private], str(target))
