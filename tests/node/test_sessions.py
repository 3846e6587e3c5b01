"""Opening, closing and losing sessions: memory is promised exactly, and always comes back."""

import asyncio
import secrets
from typing import Any

import grpc.aio
import pytest

from dsd_core.errors import DsdError, OutOfCapacity, ProtocolError, Refused, TimedOut
from dsd_core.model import kv
from dsd_core.network.identity import Identity, public_bytes_of
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.wire import VERSIONS
from dsd_core.wire.v1 import stage_pb2
from dsd_node import downstream, served_session, service
from tests.conftest import LAYERS, POSITIONS, InProcessNode, InProcessSwarm, TinyModel, dial, eventually
from tests.node.conftest import RawSession, close_session, failure_of, open_raw, refusal

PROMPT = [5, 6, 7, 8]
NOWHERE: dict[str, Any] = {"downstream": "127.0.0.1:1", "downstream_peer": public_bytes_of(Identity.ephemeral().peer_id)}


async def describe(node: InProcessNode, version: int = VERSIONS.newest) -> Any:
    async with dial(node) as channel:
        return await stage_stub(channel).Describe(stage_pb2.DescribeRequest(protocol_version=version), timeout=5)


# -- describing --------------------------------------------------------------------------------------------------------


async def test_a_stage_says_what_it_holds(two_stages: InProcessSwarm, target: TinyModel) -> None:
    first, last = [await describe(node) for node in two_stages.nodes]
    assert (first.first_layer, first.end_layer, last.first_layer, last.end_layer) == (0, 2, 2, LAYERS)
    for said in (first, last):
        assert said.protocol_version == VERSIONS.newest
        assert said.model == str(target)
        assert said.manifest_hash.hex() == target.source.manifest_hash
        assert (said.num_layers, said.hidden_size, said.max_positions) == (LAYERS, 32, POSITIONS)
        assert said.vocab_size == target.source.vocab_size
        assert said.dtype == stage_pb2.DATA_TYPE_FLOAT32


@pytest.mark.parametrize("version", [0])
async def test_a_caller_of_another_version_is_refused(one_stage: InProcessSwarm, version: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await describe(one_stage.nodes[0], version)
    error = error_of(caught.value, "")
    assert type(error) is Refused
    assert f"protocol {version}" in str(error)


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_a_session_reserves_exactly_what_it_was_promised(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(1, 3))
    async with dial(node) as channel:
        stub = stage_stub(channel)
        request = stage_pb2.OpenSessionRequest(session_id=bytes(16), capacity=100, **NOWHERE)
        opened = await stub.OpenSession(request)
        # Keys and values of two layers, two heads of eight floats each.
        assert opened.reserved_bytes == node.engine.span.kv_bytes(100) == 100 * 2 * 2 * 2 * 8 * 4
        assert node.engine.reserved_bytes == opened.reserved_bytes
        await stub.CloseSession(stage_pb2.CloseSessionRequest(session_id=bytes(16)))
        assert (node.sessions, node.engine.reserved_bytes) == (0, 0)


async def test_streams_may_come_before_their_session(one_stage: InProcessSwarm) -> None:
    """They go another way than the request to open it."""
    node = one_stage.nodes[0]
    async with open_raw([node]) as session:
        expected = await session.greedy(PROMPT, 1)
    async with dial(node) as channel:
        session = RawSession([stage_stub(channel)], secrets.token_bytes(16))
        session.frames = session.stubs[0].StreamFrames()
        session.answers = session.stubs[0].StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session.session_id))
        await session.send_run(PROMPT, 0)
        await eventually(lambda: session.session_id in node.service._openings)
        assert node.sessions == 0
        assert await refusal(node, session_id=bytes(16)) is None
        await close_session(node, bytes(16))
        assert session.session_id in node.service._openings, "another session's opening is not this one's"
        assert await refusal(node, session_id=session.session_id) is None
        assert [(await session.verdict()).choice] == expected
        session.frames.cancel()


async def test_what_waits_for_a_session_is_bounded(one_stage: InProcessSwarm) -> None:
    """Nobody was promised memory for it; and who opens the session first is served meanwhile."""
    node, frame = one_stage.nodes[0], stage_pb2.Frame(tokens=[2**32 - 1] * 800_000)
    floods = [stage_pb2.StreamFramesRequest(session_id=secrets.token_bytes(16), frame=frame) for _ in range(5)]
    async with dial(node) as channel:
        waiting = [stage_stub(channel).StreamFrames() for _ in floods]
        for frames, flood in zip(waiting[:4], floods, strict=False):
            await frames.write(flood)
        await eventually(lambda: node.service._openings._held_bytes == 4 * floods[0].ByteSize())
        await waiting[4].write(floods[4])
        assert type(await failure_of(waiting[4])) is OutOfCapacity
        async with open_raw([node]) as session:
            assert len(await session.greedy(PROMPT, 2)) == 2
        for frames in waiting:
            frames.cancel()
    await eventually(lambda: node.service._openings._held_bytes == 0)


@pytest.mark.usefixtures("impatient")
async def test_nobody_waits_for_a_session_for_ever(one_stage: InProcessSwarm) -> None:
    node = one_stage.nodes[0]
    async with dial(node) as channel:
        frames, session_id = stage_stub(channel).StreamFrames(), secrets.token_bytes(16)
        await frames.write(stage_pb2.StreamFramesRequest(session_id=session_id))
        assert type(await failure_of(frames)) is Refused
        await eventually(lambda: session_id not in node.service._openings)


async def test_closing_gives_memory_back_along_the_lane(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    nodes = [await new_swarm.start(target, span) for span in (range(2), range(2, LAYERS))]
    async with open_raw(nodes) as session:
        await session.greedy(PROMPT, 2)
        assert new_swarm.sessions == 2
        await close_session(nodes[0], session.session_id)
        assert nodes[0].engine.reserved_bytes == 0
        await new_swarm.is_free()
        assert isinstance(await session.failure(), DsdError)
        assert isinstance(await session.verdict_failure(), DsdError)


async def test_a_close_whose_caller_leaves_gives_everything_back(one_stage: InProcessSwarm) -> None:
    """It waits for the engine; meanwhile the call that asked for it is cancelled."""
    [node] = one_stage.nodes
    async with open_raw([node]) as session, node.engine._turn:
        closing = asyncio.create_task(node.service._close(session.session_id, served_session.session_ended()))
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert one_stage.reserved_bytes > 0
    await one_stage.is_free()
    assert node.service._quotas.free_bytes == node.service._quotas.total_bytes


async def test_closing_what_is_not_there_is_harmless(one_stage: InProcessSwarm) -> None:
    await close_session(one_stage.nodes[0], secrets.token_bytes(16))
    await close_session(one_stage.nodes[0], b"")


async def test_the_end_of_the_frames_ends_the_session(four_stages: InProcessSwarm) -> None:
    async with open_raw(four_stages.nodes) as session:
        await session.greedy(PROMPT, 2)
        await session.frames.done_writing()
        await session.frames
        await four_stages.is_free()


async def test_a_client_that_goes_away_frees_the_whole_lane(four_stages: InProcessSwarm) -> None:
    async with open_raw(four_stages.nodes) as session:
        await session.greedy(PROMPT, 3)
        assert four_stages.sessions == 4
    await four_stages.is_free()


async def test_an_idle_session_is_closed(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    watch = asyncio.create_task(node.service.close_idle(every=0.02))
    try:
        async with open_raw([node], idle_seconds=1) as idle, open_raw([node], idle_seconds=60) as busy:
            await busy.greedy(PROMPT, 2)
            await eventually(lambda: node.sessions == 1)
            error = await idle.verdict_failure()
            assert type(error) is TimedOut
            assert "1 idle seconds" in str(error)
            await busy.send_run([9], 0)
            await busy.verdict()
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def test_a_session_that_never_gets_a_frame_does_not_keep_its_memory_for_long(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_session, "FIRST_FRAME_SECONDS", 0.5)
    node = await new_swarm.start(target, range(LAYERS))
    watch = asyncio.create_task(node.service.close_idle(every=0.02))
    try:
        async with open_raw([node], idle_seconds=60) as silent, open_raw([node], idle_seconds=60) as begun:
            await begun.greedy(PROMPT, 2)
            assert isinstance(await silent.verdict_failure(), TimedOut)
            await begun.send_run([9], 0)
            await begun.verdict()
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def test_a_session_with_frames_is_not_idle(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    watch = asyncio.create_task(node.service.close_idle(every=0.02))
    try:
        async with open_raw([node], idle_seconds=1) as session:
            for _ in range(6):
                await session.send_run([9], 0)
                await session.verdict()
                await asyncio.sleep(0.25)
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def test_the_tree_goes_with_the_stream(one_stage: InProcessSwarm) -> None:
    (node,) = one_stage.nodes
    async with open_raw([node]) as session:
        await session.greedy(PROMPT, 2)
        (served,) = node.service._sessions.values()
        assert served._tree.held
        await close_session(node, session.session_id)
        await eventually(lambda: not served._tree.held)


async def test_a_node_gives_back_what_frames_were_computed_in_once_no_session_is_left(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[int] = []
    node = await new_swarm.start(target, range(LAYERS))
    monkeypatch.setattr(service, "give_back", lambda: given_back.append(node.sessions))
    watch = asyncio.create_task(node.service.tidy(every=0.02))
    try:
        async with open_raw([node]) as left_open:
            async with open_raw([node]) as closed:
                await closed.greedy(PROMPT, 2)
            await eventually(lambda: node.sessions == 1)
            await asyncio.sleep(0.1)
            await left_open.greedy(PROMPT, 2)
            assert given_back == []
        await eventually(lambda: given_back == [0])
        await asyncio.sleep(0.1)
        assert given_back == [0]
    finally:
        watch.cancel()
        await asyncio.wait([watch])


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [0, POSITIONS + 1, 2**32 - 1])
async def test_a_capacity_beyond_the_models_positions(one_stage: InProcessSwarm, capacity: int) -> None:
    assert type(await refusal(one_stage.nodes[0], capacity=capacity)) is Refused
    assert one_stage.sessions == 0


async def test_all_positions_may_be_reserved(one_stage: InProcessSwarm) -> None:
    assert await refusal(one_stage.nodes[0], session_id=bytes(16), capacity=POSITIONS) is None
    await close_session(one_stage.nodes[0], bytes(16))


async def test_an_id_that_is_taken(one_stage: InProcessSwarm) -> None:
    node = one_stage.nodes[0]
    async with open_raw([node]) as session:
        assert type(await refusal(node, session_id=session.session_id)) is Refused
        assert len(await session.greedy(PROMPT, 2)) == 2
    await one_stage.is_free()


@pytest.fixture
def slow_to_reserve(one_stage: InProcessSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that openings overtake each other."""
    engine = one_stage.nodes[0].engine
    reserve = engine.reserve

    async def slowly(slots: int) -> kv.KvStore:
        await asyncio.sleep(0.1)
        return await reserve(slots)

    monkeypatch.setattr(engine, "reserve", slowly)


@pytest.mark.usefixtures("slow_to_reserve")
async def test_two_openings_with_one_id_at_once(one_stage: InProcessSwarm) -> None:
    node, session_id = one_stage.nodes[0], secrets.token_bytes(16)
    answers = await asyncio.gather(*(refusal(node, session_id=session_id) for _ in range(8)))
    assert sorted(type(answer).__name__ for answer in answers) == ["NoneType"] + ["Refused"] * 7
    await close_session(node, session_id)
    await one_stage.is_free()


async def test_memory_that_is_not_there(one_stage: InProcessSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kv, "available_bytes", lambda device: 1000)
        assert type(await refusal(one_stage.nodes[0], session_id=bytes(16), capacity=100)) is OutOfCapacity
    assert one_stage.sessions == 0
    assert await refusal(one_stage.nodes[0], session_id=bytes(16), capacity=100) is None
    await close_session(one_stage.nodes[0], bytes(16))


async def test_next_stages_without_end(
    new_swarm: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that sessions go on to take room, and none that a session was refused for."""
    monkeypatch.setattr(downstream, "MAX_CHANNELS", 2)
    node = await new_swarm.start(target, range(2))

    async def opening(port: int, **changes: Any) -> DsdError | None:
        request = NOWHERE | {"downstream": f"127.0.0.1:{port}", "sampling": None, "session_id": port.to_bytes(16)} | changes
        return await refusal(node, **request)

    for port in (1, 2, 3):
        assert type(await opening(port, capacity=10**6)) is Refused
    for port in (1, 2, 3):
        assert await opening(port) is None
        await close_session(node, port.to_bytes(16))
    assert await opening(1) is None
    assert await opening(2) is None
    assert type(await opening(3)) is OutOfCapacity
    assert await opening(1, session_id=bytes(16)) is None
    await close_session(node, (2).to_bytes(16))
    assert await opening(3) is None
    for session_id in (1, 3, 0):
        await close_session(node, session_id.to_bytes(16))
    await new_swarm.is_free()


@pytest.mark.parametrize(
    ("stage", "request_", "kind"),
    [
        (1, {"session_id": bytes(15)}, ProtocolError),
        (1, {"session_id": b""}, ProtocolError),
        (1, {"sampling": None}, ProtocolError),
        (1, {"downstream": "127.0.0.1:1"}, ProtocolError),
        (1, {"downstream": "127.0.0.1:1", "sampling": None}, ProtocolError),
        (1, {"sampling": stage_pb2.Sampling(temperature=-1)}, ProtocolError),
        (1, {"sampling": stage_pb2.Sampling()}, ProtocolError),
        (0, {}, ProtocolError),
        (0, {"sampling": None}, ProtocolError),
        (0, {"downstream": "127.0.0.1:1"}, ProtocolError),
        (0, NOWHERE | {"downstream": "nowhere", "sampling": None}, ProtocolError),
        (0, NOWHERE | {"downstream_peer": bytes(32), "sampling": None}, ProtocolError),
        (0, NOWHERE | {"downstream_peer": b"short", "sampling": None}, ProtocolError),
        (0, NOWHERE | {"upstream_peer": b"short", "sampling": None}, ProtocolError),
    ],
)
async def test_terms_that_make_no_sense(
    two_stages: InProcessSwarm, stage: int, request_: dict[str, Any], kind: type[DsdError]
) -> None:
    assert type(await refusal(two_stages.nodes[stage], **request_)) is kind
    await two_stages.is_free()
