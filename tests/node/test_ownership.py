"""Sessions belong to whoever opened them, and frames come from whom the owner named."""

import secrets

import grpc.aio
import pytest

from dsd_core.errors import Refused
from dsd_core.network.identity import public_bytes_of
from dsd_core.network.status import error_of
from dsd_core.network.stubs import stage_stub
from dsd_core.network.transport import Secure
from dsd_core.wire.codec import rule_to_wire
from dsd_core.wire.v1 import stage_pb2
from dsd_node.served_session import session_ended
from tests.conftest import LAYERS, InProcessNode, InProcessSwarm, TinyModel, dial
from tests.node.conftest import GREEDY, SECONDS, failure_of, open_raw

PROMPT = [5, 6, 7]


pytestmark = pytest.mark.usefixtures("impatient")


async def unheard_of(node: InProcessNode) -> str:
    """What a node says of a session that there is not."""
    async with dial(node) as channel:
        frames = stage_stub(channel).StreamFrames()
        await frames.write(stage_pb2.StreamFramesRequest(session_id=secrets.token_bytes(16)))
        error = await failure_of(frames)
    assert type(error) is Refused
    return str(error)


async def test_a_stranger_can_neither_feed_nor_hear_nor_close_a_session(one_stage: InProcessSwarm) -> None:
    node = one_stage.nodes[0]
    absent = await unheard_of(node)
    async with open_raw([node]) as session, dial(node, Secure.kept_in(None)) as channel:
        expected = await session.greedy(PROMPT, 2)
        stranger = stage_stub(channel)
        frames = stranger.StreamFrames()
        await frames.write(stage_pb2.StreamFramesRequest(session_id=session.session_id, frame=stage_pb2.Frame(nodes=[9])))
        assert str(await failure_of(frames)) == absent
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stranger.StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session.session_id)):
                pass
        assert str(error_of(caught.value, "")) == absent
        await stranger.CloseSession(stage_pb2.CloseSessionRequest(session_id=session.session_id), timeout=SECONDS)
        assert node.sessions == 1
    async with open_raw([node]) as session:
        assert await session.greedy(PROMPT, 2) == expected


async def test_a_later_stage_takes_frames_from_the_named_upstream_alone(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    """Not even from the client: hidden states are believed because of who computed them."""
    node = await new_swarm.start(target, range(2, LAYERS))
    upstream, session_id = Secure.kept_in(None), secrets.token_bytes(16)
    hidden = stage_pb2.Tensor(dtype=stage_pb2.DATA_TYPE_FLOAT32, shape=[1, 32], data=bytes(128))
    frame = stage_pb2.Frame(nodes=[1], parents=[0], tokens=[5], wants_verdict=[True], hidden=hidden)
    request = stage_pb2.StreamFramesRequest(session_id=session_id, frame=frame)
    async with dial(node) as client, dial(node, upstream) as stage:
        owner = stage_stub(client)
        await owner.OpenSession(
            stage_pb2.OpenSessionRequest(
                session_id=session_id,
                capacity=8,
                upstream_peer=public_bytes_of(upstream.peer_id),
                sampling=rule_to_wire(GREEDY),
            ),
            timeout=SECONDS,
        )
        frames = owner.StreamFrames()
        await frames.write(request)
        assert type(await failure_of(frames)) is Refused
        verdicts = owner.StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session_id))
        frames = stage_stub(stage).StreamFrames()
        await frames.write(request)
        assert (await verdicts.read()).nodes == [1]
        frames.cancel()


async def test_a_restarted_node_never_continues_a_session(one_stage: InProcessSwarm) -> None:
    """R7: a node that has forgotten its sessions says so to each of a thousand calls, and gives no token."""
    node = one_stage.nodes[0]
    absent = await unheard_of(node)
    async with open_raw([node]) as session:
        await session.greedy(PROMPT, 2)
        for session_id in list(node.service._sessions):
            await node.service._close(session_id, session_ended())
        stage, next_frame = session.stubs[0], stage_pb2.Frame(nodes=[5], parents=[4], tokens=[9], wants_verdict=[True], keep=4)
        for _ in range(500):
            frames = stage.StreamFrames()
            await frames.write(stage_pb2.StreamFramesRequest(session_id=session.session_id, frame=next_frame))
            assert str(await failure_of(frames)) == absent
            verdicts = stage.StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session.session_id))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await verdicts.read()
            assert str(error_of(caught.value, "")) == absent
    assert node.sessions == 0
