"""A stage that lies is caught and avoided; honest ones never are (V1 and V3)."""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsd_client import Client, SamplingParams
from dsd_client.auditing import Auditor
from dsd_core.decoding.frames import Candidate, Verdict
from dsd_core.decoding.ids import TokenId
from dsd_core.errors import NotCovered, Refused, UsageError
from dsd_core.model.shape import ModelShape
from dsd_core.network.identity import PeerId
from dsd_core.network.struck_peers import StruckPeers
from tests.conftest import CALLER, LAYERS, InProcessNode, InProcessSwarm, TinyModel

PROMPT = [5, 6, 7, 8, 9]
WHOLE = range(LAYERS)


def lie(verdict: Verdict) -> Verdict:
    """Another token, with statistics to match."""
    token = TokenId((verdict.choice + 1) % 300)
    others = tuple(candidate for candidate in verdict.top if candidate.token != token)[:-1]
    top = (Candidate(token, -0.1, verdict.top[0].score + 1), *others) if verdict.top else ()
    return replace(verdict, choice=token, top=top)


def make_liar(node: InProcessNode) -> None:
    honest = node.engine._verdicts
    node.engine._verdicts = lambda *given: tuple(map(lie, honest(*given)))  # type: ignore[method-assign]


@asynccontextmanager
async def auditing(nodes: Sequence[InProcessNode], model: TinyModel, **options: Any) -> AsyncIterator[tuple[Client, Auditor]]:
    async with Client([node.address for node in nodes], str(model), "none", **options) as client:
        assert client._auditor is not None
        yield client, client._auditor


async def heard(auditor: Auditor, seconds: float = 10) -> None:
    """Returns when all that was offered has been looked at."""
    async with asyncio.timeout(seconds):
        await auditor._claims.join()


async def start(swarm: InProcessSwarm, model: TinyModel, count: int) -> list[InProcessNode]:
    return [await swarm.start(model, WHOLE) for _ in range(count)]


def strikes(auditor: Auditor, nodes: Sequence[InProcessNode]) -> list[int]:
    return [auditor.book.standing(node.peer).strikes for node in nodes]


async def answer_at(client: Client, node: InProcessNode, nodes: Sequence[InProcessNode]) -> list[int]:
    """An answer of one node, however the routes are just now."""
    others = frozenset(other.address for other in nodes if other is not node)
    swarm = client._swarm
    assert swarm is not None
    choose = swarm.chain

    async def choose_that(model: ModelShape, wishes: Any = None) -> Any:
        from dsd_client.chain_choice import Wishes
        from dsd_core.network.address import Address

        avoided = frozenset(map(Address.parse, others))
        if wishes is None or not wishes.serving:
            wishes = Wishes(serving=avoided)
        return await choose(model, wishes)

    swarm.chain = choose_that  # type: ignore[method-assign]
    try:
        result = await client.generate(PROMPT, max_new_tokens=12, speculation="off")
    finally:
        swarm.chain = choose  # type: ignore[method-assign]
    return list(result.token_ids)


async def test_a_liar_is_banned_after_its_first_answer_and_avoided_from_then_on(
    new_swarm: InProcessSwarm, target: TinyModel
) -> None:
    nodes = await start(new_swarm, target, 3)
    liar, *honest = nodes
    make_liar(liar)
    expected = target.greedy(PROMPT, 12)
    async with auditing(nodes, target) as (client, auditor):
        assert await answer_at(client, liar, nodes) != expected.token_ids
        await heard(auditor)
        assert auditor.book.banned == {liar.peer}
        assert liar.peer in client._banned
        for _ in range(5):
            answer = await client.generate(PROMPT, max_new_tokens=12, speculation="off")
            expected.assert_same(answer.token_ids)
        await heard(auditor)
        assert strikes(auditor, honest) == [0, 0]
        assert auditor.book.banned == {liar.peer}
    await new_swarm.is_free()


async def test_a_checker_that_lies_does_not_get_others_banned(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    nodes = await start(new_swarm, target, 3)
    make_liar(nodes[2])
    async with auditing(nodes, target) as (client, auditor):
        for _ in range(6):
            await answer_at(client, nodes[0], nodes)
            await heard(auditor)
        assert strikes(auditor, nodes[:2]) == [0, 0]
        assert auditor.book.banned <= {nodes[2].peer}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
async def test_honest_nodes_pass_every_check(new_swarm: InProcessSwarm, target: TinyModel, dtype: str) -> None:
    nodes = [await new_swarm.start(target, WHOLE, dtype=dtype) for _ in range(3)]
    sampling = SamplingParams(temperature=0.8, top_p=0.9, seed=4)
    async with auditing(nodes, target, audit=1.0) as (client, auditor):
        for seed in range(4):
            await client.generate(PROMPT, max_new_tokens=40, sampling=replace(sampling, seed=seed))
            await client.generate([*PROMPT, seed], max_new_tokens=40)
        await heard(auditor)
        assert auditor.blocks_checked == auditor.blocks_heard > 0
        assert auditor.blocks_passed == auditor.blocks_checked
        assert strikes(auditor, nodes) == [0, 0, 0]
        assert auditor.book.banned == set()


async def test_with_two_chains_nobody_can_say_who_lies(
    new_swarm: InProcessSwarm, target: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = await start(new_swarm, target, 2)
    make_liar(nodes[0])
    async with auditing(nodes, target) as (client, auditor):
        await client.generate(PROMPT, max_new_tokens=12, speculation="off")
        await heard(auditor)
        assert auditor.book.banned == set()
        assert strikes(auditor, nodes) == [0, 0]
    assert any("no third chain" in record.getMessage() for record in caplog.records)


async def test_with_one_chain_there_is_nothing_to_compare(one_stage: InProcessSwarm, target: TinyModel) -> None:
    async with auditing(one_stage.nodes, target) as (client, auditor):
        await client.generate(PROMPT, max_new_tokens=12)
        await heard(auditor)
        assert (auditor.blocks_heard, auditor.blocks_checked) == (3, 0)
    await one_stage.is_free()


async def test_the_one_stage_of_a_chain_that_lies_is_found(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    """All three chains begin with one first stage, so it is not to blame."""
    first = await new_swarm.start(target, range(2))
    lasts = [await new_swarm.start(target, range(2, LAYERS)) for _ in range(3)]
    make_liar(lasts[0])
    nodes = [first, *lasts]
    async with auditing(nodes, target) as (client, auditor):
        for _ in range(4):
            await answer_at(client, lasts[0], lasts)
            await heard(auditor)
        assert auditor.book.banned == {lasts[0].peer}
        assert strikes(auditor, [first, *lasts[1:]]) == [0, 0, 0]


async def test_a_liar_that_leaves_before_the_end_is_heard_all_the_same(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    nodes = await start(new_swarm, target, 3)
    drained: list[asyncio.Task[None]] = []
    async with auditing(nodes, target) as (client, auditor), client.conversation(positions=100, speculation="off") as answers:
        async for chunk in answers.ask(PROMPT, max_new_tokens=80):
            if not drained:
                [liar] = [node for node in nodes if node.address == chunk.route[0]]
                make_liar(liar)
                drained.append(asyncio.create_task(liar.service.drain()))
        assert answers.result.stats.reroutes == 1
        assert len(answers._conversation.heard) == 2
        await heard(auditor)
        assert auditor.book.banned == {liar.peer}
        assert strikes(auditor, [node for node in nodes if node is not liar]) == [0, 0]


async def test_a_ban_outlives_the_client(new_swarm: InProcessSwarm, target: TinyModel, tmp_path: Path) -> None:
    nodes = await start(new_swarm, target, 3)
    make_liar(nodes[0])
    async with auditing(nodes, target, data_dir=tmp_path / "keys") as (client, auditor):
        await answer_at(client, nodes[0], nodes)
        await heard(auditor)
    with pytest.raises((NotCovered, Refused), match="banned"):
        async with Client([nodes[0].address], str(target), "none", data_dir=tmp_path / "keys", insecure_loopback=False):
            pass


async def test_audits_can_be_off(one_stage: InProcessSwarm, target: TinyModel) -> None:
    async with Client(one_stage.addresses, str(target), "none", audit=None) as client:
        await client.generate(PROMPT, max_new_tokens=2)
        assert client._auditor is None


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
def test_a_share_that_makes_no_sense(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        Client(audit=share)


def test_strikes_are_files_that_are_never_forgiven(tmp_path: Path) -> None:
    struck, peer = StruckPeers(tmp_path / "keys"), PeerId(CALLER.peer_id)
    assert struck.count(peer) == 0
    struck.strike(peer, "mild")
    struck.strike(peer, "mild")
    assert StruckPeers(tmp_path / "keys").count(peer) == 2
