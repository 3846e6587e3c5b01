"""What goes over the wire comes back equal; what should not be there is refused, by one error."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule
from dsd_core.decoding.frames import Candidate, Frame, FrameNode, Verdict
from dsd_core.decoding.ids import NodeId, TokenId
from dsd_core.errors import DsdError, ProtocolError
from dsd_core.wire.codec import (
    MAX_FRAME_NODES,
    MAX_TOP_COUNT,
    SESSION_ID_BYTES,
    ComputeTime,
    frame_from_wire,
    frame_to_wire,
    rule_from_wire,
    rule_to_wire,
    session_id_from_wire,
    time_from_wire,
    verdicts_from_wire,
    verdicts_to_wire,
)
from dsd_core.wire.hidden import DType, HiddenStates, dtype_from_wire, dtype_to_wire, hidden_from_wire, hidden_to_wire
from dsd_core.wire.v1 import stage_pb2

VOCABULARY = 1000
LARGE = 2**32 - 1

ids = st.integers(1, LARGE)
tokens = st.integers(0, VOCABULARY - 1)
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    numbers = sorted(draw(st.sets(ids, max_size=20)))
    nodes = tuple(
        FrameNode(NodeId(number), NodeId(draw(st.integers(0, number - 1))), TokenId(draw(tokens)), draw(st.booleans()))
        for number in numbers
    )
    return Frame(nodes, NodeId(draw(st.integers(0, LARGE))))


@st.composite
def tops(draw: st.DrawFn) -> tuple[Candidate, ...]:
    best = draw(st.lists(tokens, min_size=1, max_size=MAX_TOP_COUNT, unique=True))
    scores = sorted(draw(st.lists(float32, min_size=len(best), max_size=len(best))), reverse=True)
    log_probs = draw(st.lists(st.floats(-100, 0, width=32), min_size=len(best), max_size=len(best)))
    return tuple(Candidate(TokenId(t), p, s) for t, p, s in zip(best, log_probs, scores, strict=True))


@st.composite
def verdict_batches(draw: st.DrawFn) -> tuple[Verdict, ...]:
    with_statistics = draw(st.booleans())
    return tuple(draw(_verdict(with_statistics=with_statistics)) for _ in range(draw(st.integers(0, 6))))


@st.composite
def _verdict(draw: st.DrawFn, *, with_statistics: bool) -> Verdict:
    node, margin = NodeId(draw(ids)), draw(st.one_of(st.floats(0, 100, width=32), st.just(math.inf)))
    if not with_statistics:
        return Verdict(node, TokenId(draw(tokens)), margin)
    top = draw(tops())
    return Verdict(node, top[0].token, margin, top, draw(st.floats(0, 20, width=32)))


# -- round trips -------------------------------------------------------------------------------------------------------


@given(frames())
def test_a_frame_comes_back_equal(frame: Frame) -> None:
    message = stage_pb2.Frame.FromString(frame_to_wire(frame, ComputeTime()).SerializeToString())
    assert frame_from_wire(message, vocab_size=VOCABULARY) == frame


@given(verdict_batches())
def test_verdicts_come_back_equal(verdicts: tuple[Verdict, ...]) -> None:
    message = stage_pb2.StreamVerdictsResponse.FromString(verdicts_to_wire(verdicts, ComputeTime()).SerializeToString())
    assert verdicts_from_wire(message, vocab_size=VOCABULARY) == verdicts


@given(
    st.builds(
        SamplingParams,
        temperature=st.floats(0, 100),
        top_p=st.floats(0.001, 1),
        top_k=st.integers(0, LARGE),
        repetition_penalty=st.floats(0.001, 100),
        seed=st.integers(0, 2**64 - 1),
    ),
    st.integers(0, LARGE),
    st.integers(0, MAX_TOP_COUNT),
)
def test_a_rule_comes_back_equal(params: SamplingParams, choice_index: int, top_count: int) -> None:
    rule = ChoiceRule(params, choice_index, top_count)
    assert rule_from_wire(stage_pb2.Sampling.FromString(rule_to_wire(rule).SerializeToString())) == rule


@given(st.sampled_from(DType), st.integers(0, 5), st.integers(1, 9), st.randoms(use_true_random=False))
def test_hidden_states_come_back_equal(dtype: DType, rows: int, width: int, random: Any) -> None:
    hidden = HiddenStates(dtype, rows, width, random.randbytes(rows * width * dtype.itemsize))
    message = stage_pb2.Tensor.FromString(hidden_to_wire(hidden).SerializeToString())
    assert hidden_from_wire(message, rows=rows, width=width, dtype=dtype) == hidden


@given(st.floats(0, 4000), st.floats(0, 1))
def test_compute_time_comes_back_to_the_microsecond(total: float, share: float) -> None:
    time = time_from_wire(frame_to_wire(Frame((), NodeId(0)), ComputeTime(total, share * total)))
    assert (time.total, time.slowest) == pytest.approx((total, share * total), abs=2e-6)


def test_one_stage_takes_no_longer_than_all() -> None:
    with pytest.raises(ProtocolError, match="one stage claims 2 of 1 microseconds"):
        time_from_wire(stage_pb2.StreamVerdictsResponse(compute_micros=1, slowest_micros=2))


def test_compute_time_does_not_overflow() -> None:
    message = frame_to_wire(Frame((), NodeId(0)), ComputeTime(1e9, 1e9))
    assert (message.compute_micros, message.slowest_micros) == (LARGE, LARGE)


def test_compute_time_adds_up() -> None:
    assert ComputeTime(1.0, 0.5).plus(0.75) == ComputeTime(1.75, 0.75)
    assert ComputeTime(1.0, 0.5).plus(0.25) == ComputeTime(1.25, 0.5)


@pytest.mark.parametrize("dtype", DType)
def test_data_types_have_torchs_names_and_sizes(dtype: DType) -> None:
    import torch

    assert dtype_from_wire(dtype_to_wire(dtype)) is dtype
    assert getattr(torch, dtype.value).itemsize == dtype.itemsize


# -- refusals ----------------------------------------------------------------------------------------------------------


def frame(**columns: Any) -> stage_pb2.Frame:
    sound: dict[str, Any] = {"nodes": [5, 6], "parents": [4, 5], "tokens": [1, 2], "wants_verdict": [True, False], "keep": 4}
    return stage_pb2.Frame(**sound | columns)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (frame(nodes=[5]), "differ in length"),
        (frame(nodes=[]), "differ in length"),
        (frame(parents=[4]), "differ in length"),
        (frame(tokens=[1, 2, 3]), "differ in length"),
        (frame(tokens=[]), "differ in length"),
        (frame(wants_verdict=[True]), "differ in length"),
        (frame(wants_verdict=[]), "differ in length"),
        (frame(tokens=[1, VOCABULARY]), f"token {VOCABULARY} is not in the vocabulary"),
        (frame(tokens=[LARGE, 1]), "not in the vocabulary"),
        (frame(nodes=[6, 5]), "ids of a frame"),
        (frame(nodes=[5, 5]), "ids of a frame"),
        (frame(nodes=[0, 1]), "ids of a frame"),
        (frame(nodes=range(1, MAX_FRAME_NODES + 2)), "at most 4096 nodes"),
    ],
)
def test_a_malformed_frame(message: stage_pb2.Frame, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        frame_from_wire(message, vocab_size=VOCABULARY)


def test_a_sound_frame_is_taken() -> None:
    assert len(frame_from_wire(frame(), vocab_size=VOCABULARY).nodes) == 2
    rows = MAX_FRAME_NODES
    largest = frame(nodes=range(1, rows + 1), parents=[0] * rows, tokens=[0] * rows, wants_verdict=[False] * rows)
    assert len(frame_from_wire(largest, vocab_size=VOCABULARY).nodes) == rows


def statistics(**columns: Any) -> stage_pb2.Statistics:
    sound: dict[str, Any] = {"tokens": [7, 3], "log_probs": [-0.5, -2.0], "scores": [1.0, 0.5], "entropy": 1.5}
    return stage_pb2.Statistics(**sound | columns)


def verdicts(**columns: Any) -> stage_pb2.StreamVerdictsResponse:
    sound: dict[str, Any] = {"nodes": [5], "choices": [7], "margins": [0.25], "statistics": [statistics()]}
    return stage_pb2.StreamVerdictsResponse(**sound | columns)


@pytest.mark.parametrize(
    "message",
    [
        verdicts(nodes=[5, 6]),
        verdicts(nodes=[]),
        verdicts(choices=[]),
        verdicts(choices=[7, 8]),
        verdicts(margins=[]),
        verdicts(margins=[0.1, 0.2]),
        verdicts(statistics=[statistics(), statistics()]),
        verdicts(choices=[VOCABULARY], statistics=[statistics(tokens=[VOCABULARY, 3])]),
        verdicts(choices=[VOCABULARY], statistics=[]),
        verdicts(margins=[math.nan]),
        verdicts(margins=[-0.001]),
        verdicts(margins=[-math.inf]),
        verdicts(choices=[8]),  # not the best candidate
        verdicts(statistics=[statistics(tokens=[], log_probs=[], scores=[])]),
        verdicts(statistics=[statistics(tokens=[7])]),
        verdicts(statistics=[statistics(log_probs=[-1.0])]),
        verdicts(statistics=[statistics(scores=[1.0, 0.5, 0.25])]),
        verdicts(statistics=[statistics(tokens=[7, VOCABULARY])]),
        verdicts(statistics=[statistics(tokens=[7, 7])]),
        verdicts(statistics=[statistics(tokens=range(7, 16), log_probs=[-1] * 9, scores=[0] * 9)]),
        verdicts(statistics=[statistics(scores=[0.5, 1.0])]),
        verdicts(statistics=[statistics(scores=[math.nan, 1.0])]),
        verdicts(statistics=[statistics(scores=[1.0, math.nan])]),
        verdicts(statistics=[statistics(scores=[math.inf, 1.0])]),
        verdicts(statistics=[statistics(scores=[1.0, -math.inf])]),
        verdicts(statistics=[statistics(log_probs=[0.01, -1.0])]),
        verdicts(statistics=[statistics(log_probs=[-0.5, math.nan])]),
        verdicts(statistics=[statistics(log_probs=[-0.5, -math.inf])]),
        verdicts(statistics=[statistics(log_probs=[math.inf, -0.5])]),
        verdicts(statistics=[statistics(entropy=math.nan)]),
        verdicts(statistics=[statistics(entropy=math.inf)]),
        verdicts(statistics=[statistics(entropy=-0.1)]),
        verdicts(nodes=[1] * 4097, choices=[1] * 4097, margins=[0] * 4097, statistics=[]),
    ],
)
def test_a_malformed_verdict(message: stage_pb2.StreamVerdictsResponse) -> None:
    with pytest.raises(ProtocolError):
        verdicts_from_wire(message, vocab_size=VOCABULARY)


def test_a_sound_verdict_is_taken() -> None:
    [verdict] = verdicts_from_wire(verdicts(), vocab_size=VOCABULARY)
    assert (verdict.choice, verdict.entropy, len(verdict.top)) == (7, 1.5, 2)


def test_a_choice_without_rival_leads_by_infinity() -> None:
    [verdict] = verdicts_from_wire(verdicts(margins=[math.inf], statistics=[]), vocab_size=VOCABULARY)
    assert verdict.margin == math.inf


def sampling(**fields: Any) -> stage_pb2.Sampling:
    return stage_pb2.Sampling(**{"temperature": 0.5, "top_p": 0.5, "repetition_penalty": 1.0, "seed": 3} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_p": math.nan},
        {"repetition_penalty": 0},
        {"repetition_penalty": -1},
        {"repetition_penalty": math.inf},
        {"repetition_penalty": math.nan},
        {"top_count": MAX_TOP_COUNT + 1},
    ],
)
def test_a_malformed_rule(fields: dict[str, Any]) -> None:
    assert rule_from_wire(sampling()).params.seed == 3
    with pytest.raises(ProtocolError):
        rule_from_wire(sampling(**fields))


def tensor(**fields: Any) -> stage_pb2.Tensor:
    sound: dict[str, Any] = {"dtype": stage_pb2.DATA_TYPE_FLOAT32, "shape": [2, 3], "data": bytes(24)}
    return stage_pb2.Tensor(**sound | fields)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (tensor(dtype=stage_pb2.DATA_TYPE_BFLOAT16), "use one type along a lane"),
        (tensor(dtype=stage_pb2.DATA_TYPE_UNSPECIFIED), "unknown"),
        (tensor(dtype=77), "unknown"),
        (tensor(shape=[3, 3]), "shape"),
        (tensor(shape=[2, 4]), "shape"),
        (tensor(shape=[3, 2]), "shape"),
        (tensor(shape=[6]), "shape"),
        (tensor(shape=[]), "shape"),
        (tensor(shape=[2, 3, 1]), "shape"),
        (tensor(shape=[LARGE] * 1000), "shape"),
        (tensor(data=bytes(23)), "23 bytes, expected 24"),
        (tensor(data=bytes(25)), "25 bytes, expected 24"),
        (tensor(data=b""), "0 bytes, expected 24"),
    ],
)
def test_malformed_hidden_states(message: stage_pb2.Tensor, why: str) -> None:
    with pytest.raises(ProtocolError, match=why) as caught:
        hidden_from_wire(message, rows=2, width=3, dtype=DType.FLOAT32)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("length", [0, 1, SESSION_ID_BYTES - 1, SESSION_ID_BYTES + 1, 1000])
def test_a_session_id_of_another_length(length: int) -> None:
    with pytest.raises(ProtocolError, match="session id"):
        session_id_from_wire(bytes(length))
    assert session_id_from_wire(bytes(SESSION_ID_BYTES)) == bytes(SESSION_ID_BYTES)


# -- bytes from a stranger ---------------------------------------------------------------------------------------------

Parser = Callable[[Any], object]
PARSERS: list[tuple[type[Message], Parser]] = [
    (stage_pb2.Frame, lambda message: frame_from_wire(message, vocab_size=VOCABULARY)),
    (stage_pb2.StreamVerdictsResponse, lambda message: verdicts_from_wire(message, vocab_size=VOCABULARY)),
    (stage_pb2.Sampling, rule_from_wire),
    (stage_pb2.Tensor, lambda message: hidden_from_wire(message, rows=2, width=3, dtype=DType.FLOAT32)),
]
SOUND = [frame(hidden=tensor()), verdicts(), sampling(), tensor()]


@pytest.mark.parametrize(("kind", "parse"), PARSERS, ids=lambda part: getattr(part, "__name__", ""))
@given(data=st.binary(max_size=200))
def test_random_bytes(kind: type[Message], parse: Parser, data: bytes) -> None:
    _take(kind, parse, data)


@pytest.mark.parametrize("which", range(len(SOUND)))
def test_mutated_messages(which: int) -> None:
    """Every kind of mutation that a fuzzer starts with, a few thousand times, from one seed."""
    random = np.random.default_rng(which)
    kind, parse = PARSERS[which]
    for _ in range(3000):
        data = bytearray(SOUND[which].SerializeToString())
        for _ in range(random.integers(1, 4)):
            _mutate(data, random)
        _take(kind, parse, bytes(data))


def _mutate(data: bytearray, random: np.random.Generator) -> None:
    at, byte = int(random.integers(0, len(data) + 1)), int(random.integers(0, 256))
    match random.integers(0, 4):
        case 0:
            data.insert(at, byte)
        case 1:
            del data[at : at + int(random.integers(1, 4))]
        case 2:
            data[at : at + 1] = bytes([byte])
        case _:
            data[at:at] = data[: int(random.integers(0, 12))]


def _take(kind: type[Message], parse: Parser, data: bytes) -> None:
    try:
        parse(kind.FromString(data))
    except (ProtocolError, DecodeError):
        pass
    except DsdError as error:
        pytest.fail(f"{type(error).__name__} for bytes from a stranger: {error}")


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 8])
def test_a_node_costs_at_most_64_bytes(nodes: int) -> None:
    """In exact mode, with ids as large as they get."""
    first = LARGE - nodes
    rows = [FrameNode(NodeId(first + row), NodeId(first + row - 1), TokenId(200_000 + row)) for row in range(nodes)]
    message = stage_pb2.StreamFramesRequest(frame=frame_to_wire(Frame(tuple(rows), NodeId(first)), ComputeTime()))
    assert message.ByteSize() <= 64 * nodes


@pytest.mark.parametrize("nodes", [1, 8])
def test_a_verdict_costs_at_most_64_bytes(nodes: int) -> None:
    first = LARGE - nodes
    rows = [Verdict(NodeId(first + row), TokenId(200_000 + row), 0.123) for row in range(nodes)]
    assert verdicts_to_wire(rows, ComputeTime(4000, 4000)).ByteSize() <= 64 * nodes
