"""Malformed messages are refused by type, cheaply, and harm nobody (S7)."""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.message import DecodeError, Message

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.frames import Candidate, Frame, FrameNode, Verdict
from dsd_core.decoding.ids import NodeId, TokenId
from dsd_core.decoding.stage_tree import StageTree
from dsd_core.errors import DsdError
from dsd_core.network.identity import Identity, public_bytes_of
from dsd_core.network.status import ERROR_KEY
from dsd_core.wire.codec import (
    ComputeTime,
    frame_from_wire,
    frame_to_wire,
    rule_from_wire,
    rule_to_wire,
    session_id_from_wire,
    verdicts_from_wire,
    verdicts_to_wire,
)
from dsd_core.wire.hidden import DType, HiddenStates, hidden_from_wire, hidden_to_wire
from dsd_core.wire.records import handles_from_wire, record_from_wire, signed_from_wire
from dsd_core.wire.v1 import peer_pb2, stage_pb2
from tests.conftest import LAYERS, InProcessSwarm, TinyModel, dial
from tests.fuzz.mutation import mutate
from tests.node.conftest import SECONDS, close_session, open_raw
from tests.scale import count

pytestmark = pytest.mark.usefixtures("impatient")

VOCAB = 320
FRAME = Frame(tuple(FrameNode(NodeId(node), NodeId(node - 1), TokenId(7), node == 9) for node in range(1, 10)), NodeId(3))
HIDDEN = HiddenStates(DType.FLOAT32, 9, 8, bytes(range(256)) + bytes(32))
VERDICT = Verdict(NodeId(4), TokenId(7), 0.5, (Candidate(TokenId(7), -0.2, 1.5), Candidate(TokenId(9), -2.0, 1.0)), 0.75)
RULE = ChoiceRule(SamplingParams(0.7, 0.9, 50, 1.1, seed=3), choice_index=1, top_count=8)
PEER = public_bytes_of(Identity.ephemeral().peer_id)
RECORD = peer_pb2.PeerRecord(
    peer=PEER,
    swarm=b"home",
    sequence=7,
    ttl_seconds=60,
    protocol_versions=[1],
    addresses=["127.0.0.1:4100", "node.example.org:4100"],
    role=peer_pb2.ROLE_TARGET,
    state=peer_pb2.STATE_SERVING,
    holding=peer_pb2.Holding(
        model="Qwen/Qwen3-8B",
        manifest_hash=bytes(32),
        dtype=stage_pb2.DATA_TYPE_BFLOAT16,
        end_layer=4,
        num_layers=8,
        hidden_size=64,
        vocab_size=VOCAB,
        max_positions=512,
    ),
    capacity=peer_pb2.Capacity(free_positions=100, total_positions=200, frame_micros=900, node_micros=3),
    measured_peers=bytes(range(10)),
    round_trip_micros=[700],
)


def read_frame(message: stage_pb2.Frame) -> None:
    """As a stage does: check, register, place."""
    frame = frame_from_wire(message, vocab_size=VOCAB)
    if message.HasField("hidden"):
        hidden_from_wire(message.hidden, rows=len(frame.nodes), width=8, dtype=DType.FLOAT32)
    tree = StageTree(64)
    tree.register(frame)
    tree.place(frame)


def read_terms(message: stage_pb2.OpenSessionRequest) -> None:
    session_id_from_wire(message.session_id)
    rule_from_wire(message.sampling)


READERS: list[tuple[Message, Callable[[Any], object]]] = [
    (frame_to_wire(FRAME, ComputeTime(0.1, 0.1)), read_frame),
    (frame_to_wire(FRAME, ComputeTime(), hidden_to_wire(HIDDEN)), read_frame),
    (
        stage_pb2.OpenSessionRequest(session_id=bytes(16), capacity=64, sampling=rule_to_wire(RULE), upstream_peer=PEER),
        read_terms,
    ),
    (verdicts_to_wire([VERDICT, VERDICT], ComputeTime()), lambda message: verdicts_from_wire(message, vocab_size=VOCAB)),
    (RECORD, record_from_wire),
    (peer_pb2.SignedRecord(record=RECORD.SerializeToString(), signature=bytes(64), age_millis=5), signed_from_wire),
    (peer_pb2.SignedRecord(record=bytes(range(40))), lambda message: handles_from_wire(message.record)),
]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_every_message_is_read_as_it_was_made() -> None:
    for message, read in READERS[:-1]:
        read(type(message).FromString(message.SerializeToString()))


MESSAGES = count(20_000, 20_000, 1_000_000)


def test_many_mutated_messages() -> None:
    """Each is no message, or is read, or is refused by one of our errors; nothing else comes out, and no memory stays."""
    chance = random.Random(2026)
    outcomes: Counter[str] = Counter()
    before = resident_bytes()
    for number in range(MESSAGES):
        message, read = READERS[number % len(READERS)]
        content = mutate(message, chance)
        try:
            read(type(message).FromString(content))
            outcomes["read"] += 1
        except DecodeError:
            outcomes["no message"] += 1
        except DsdError:
            outcomes["refused"] += 1
    assert resident_bytes() - before < 64 << 20
    # All three happen, so the mutations are neither too tame nor too wild to test anything.
    assert all(outcomes[kind] > 1000 for kind in ("read", "no message", "refused")), outcomes


# -- a live node -------------------------------------------------------------------------------------------------------

STAGE_MESSAGES: dict[str, Message] = {
    "Describe": stage_pb2.DescribeRequest(protocol_version=1, oldest_protocol_version=1),
    "OpenSession": stage_pb2.OpenSessionRequest(session_id=bytes(16), capacity=64, sampling=rule_to_wire(RULE)),
    "CloseSession": stage_pb2.CloseSessionRequest(session_id=bytes(16)),
    "StreamFrames": stage_pb2.StreamFramesRequest(session_id=bytes(16), frame=frame_to_wire(FRAME, ComputeTime())),
    "StreamVerdicts": stage_pb2.StreamVerdictsRequest(session_id=bytes(range(16))),
}
OURS = {"OK", "Refused", "ProtocolError", "OutOfCapacity"}


async def outcome(channel: grpc.aio.Channel, method: str, message: bytes) -> str:
    """What a call came to: our error by name, or gRPC's status."""
    path = f"/dsd.v1.StageService/{method}"
    if method == "StreamFrames":
        call: Any = channel.stream_stream(path)(timeout=SECONDS)
        # The answer may come while we are still writing; it is looked at below.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(message)
            await call.done_writing()
    else:
        call = channel.unary_stream(path)(message, timeout=SECONDS)
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    code = await call.code()
    return str(dict(await call.trailing_metadata() or ()).get(ERROR_KEY) or code.name)


async def test_mutated_messages_into_every_handler(
    new_swarm: InProcessSwarm, target: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    chance = random.Random(2027)
    outcomes: Counter[str] = Counter()
    async with dial(node) as channel:
        for method, message in STAGE_MESSAGES.items():
            for _ in range(150):
                outcomes[await outcome(channel, method, mutate(message, chance))] += 1
            close = STAGE_MESSAGES["CloseSession"].SerializeToString()
            await outcome(channel, "CloseSession", close)
    assert set(outcomes) <= OURS, outcomes
    assert all(outcomes[kind] > 20 for kind in ("OK", "Refused", "ProtocolError")), outcomes
    async with open_raw([node]) as session:
        assert len(await session.greedy([5, 6, 7], 3)) == 3
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


async def test_mutated_frames_into_live_sessions(
    new_swarm: InProcessSwarm, target: TinyModel, caplog: pytest.LogCaptureFixture
) -> None:
    """Each ends its own session at most; the one beside it never notices."""
    node = await new_swarm.start(target, range(LAYERS))
    chance = random.Random(2028)
    ended: Counter[str] = Counter()
    async with open_raw([node], capacity=400) as witness, dial(node) as channel:
        expected = await witness.greedy([5, 6, 7], 3)
        for _ in range(150):
            async with open_raw([node], capacity=32) as session:
                head = stage_pb2.StreamFramesRequest(session_id=session.session_id).SerializeToString()
                content = mutate(frame_to_wire(FRAME, ComputeTime()), chance)
                # Field 2, a message of so many bytes: a sound envelope around it.
                request = head + b"\x12" + _varint(len(content)) + content
                ended[await outcome(channel, "StreamFrames", request)] += 1
                await close_session(node, session.session_id)
        assert set(ended) <= OURS, ended
        assert all(ended[kind] > 10 for kind in ("OK", "ProtocolError")), ended
        assert expected == await witness.greedy([5, 6, 7], 3)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


@pytest.mark.parametrize("nested", [10, 5000])
async def test_nesting_without_end(new_swarm: InProcessSwarm, target: TinyModel, nested: int) -> None:
    node = await new_swarm.start(target, range(LAYERS))
    content = b""
    for _ in range(nested):
        content = b"\x12" + _varint(len(content)) + content
    async with dial(node) as channel:
        assert await outcome(channel, "StreamFrames", content) != "DEADLINE_EXCEEDED"
        request = stage_pb2.CloseSessionRequest(session_id=secrets.token_bytes(16)).SerializeToString()
        async with asyncio.timeout(SECONDS):
            assert await outcome(channel, "CloseSession", request) == "OK"
