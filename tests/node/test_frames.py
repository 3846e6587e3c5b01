"""Frames: who may send them, what they may say, and that nobody else notices when they are wrong."""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from dsd_core.decoding.choice.sampling import SamplingParams
from dsd_core.decoding.choice.target import ChoiceRule, verdict
from dsd_core.errors import DsdError, OutOfCapacity, PeerLost, ProtocolError, Refused
from dsd_core.model.span import Span, SpanInput
from dsd_core.wire.v1 import stage_pb2
from tests.conftest import LAYERS, InProcessNode, InProcessSwarm, TinyModel, eventually
from tests.node.conftest import close_session, failure_of, open_raw

PROMPT = [5, 6, 7, 8, 9, 10]
WIDTH = 32


# -- exactness ---------------------------------------------------------------------------------------------------------


async def test_plain_decoding_equals_transformers(four_stages: InProcessSwarm, target: TinyModel) -> None:
    async with open_raw(four_stages.nodes) as session:
        target.greedy(PROMPT, 12).assert_same(await session.greedy(PROMPT, 12))


async def test_a_verdict_only_for_the_nodes_that_want_one(two_stages: InProcessSwarm, target: TinyModel) -> None:
    async with open_raw(two_stages.nodes) as session:
        ids = await session.send_run(PROMPT, 0, wanted=[1, 4])
        verdicts = [await session.verdict(), await session.verdict()]
        assert [verdict.node for verdict in verdicts] == [ids[1], ids[4]]
        assert [verdict.choice for verdict in verdicts] == [target.greedy(PROMPT[:end], 1).token_ids[0] for end in (2, 5)]
        assert all(verdict.top == () and verdict.entropy is None for verdict in verdicts)
        await session.send_run([11, 12], ids[-1], wanted=[])
        assert await session.nothing()


async def test_head_and_noise_cost_nothing_where_no_verdict_is_wanted(
    one_stage: InProcessSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    logits = Span.logits
    monkeypatch.setattr(Span, "logits", lambda span, hidden: (rows.append(len(hidden)), logits(span, hidden))[1])
    async with open_raw(one_stage.nodes) as session:
        ids = await session.send_run(PROMPT, 0, wanted=[])
        await session.send_run(PROMPT, ids[-1], wanted=[-1])
        await session.verdict()
    assert rows == [1]


async def test_branches_are_judged_apart(two_stages: InProcessSwarm, target: TinyModel) -> None:
    """Two continuations of one prompt in one frame, and a later one of each."""
    async with open_raw(two_stages.nodes) as session:
        tip = (await session.send_run(PROMPT, 0, wanted=[]))[-1]
        [left], [right] = [await session.send_run([token], tip) for token in (21, 22)]
        choices = {v.node: v.choice for v in [await session.verdict(), await session.verdict()]}
        [deep] = await session.send_run([23], left, keep=left)
        choices[deep] = (await session.verdict()).choice
    for node, path in ((left, [21]), (right, [22]), (deep, [21, 23])):
        assert [choices[node]] == target.greedy(PROMPT + path, 1).token_ids


RULES = [
    SamplingParams(temperature=0.8, seed=3),
    SamplingParams(temperature=0.8, top_k=20, seed=4),
    SamplingParams(temperature=1.1, top_p=0.6, seed=5),
    SamplingParams(repetition_penalty=1.4, seed=0),
    SamplingParams(temperature=0.7, top_k=50, top_p=0.9, repetition_penalty=1.2, seed=2**64 - 1),
    SamplingParams(temperature=1.0, top_k=1, seed=6),
]


@pytest.mark.parametrize("params", RULES, ids=str)
@pytest.mark.parametrize("top_count", [0, 8])
async def test_the_last_stage_chooses_by_the_sessions_rule(
    two_stages: InProcessSwarm, target: TinyModel, params: SamplingParams, top_count: int
) -> None:
    rule = ChoiceRule(params, choice_index=2, top_count=top_count)
    with torch.no_grad():
        logits = target.model(torch.tensor([PROMPT])).logits[0].numpy()
    async with open_raw(two_stages.nodes, rule=rule) as session:
        ids = await session.send_run(PROMPT, 0, wanted=range(len(PROMPT)))
        for row, node in enumerate(ids):
            found = await session.verdict()
            history = np.array(PROMPT[: row + 1])
            expected = verdict(node, logits[row], rule, position=row + 1, history=history)  # type: ignore[arg-type]
            assert (found.node, found.choice) == (node, expected.choice)
            assert found.margin == pytest.approx(expected.margin, abs=1e-3)
            assert [best.token for best in found.top] == [best.token for best in expected.top]
            for ours, theirs in zip(found.top, expected.top, strict=True):
                assert (ours.log_prob, ours.score) == pytest.approx((theirs.log_prob, theirs.score), abs=1e-3)
            assert found.entropy == (None if not top_count else pytest.approx(expected.entropy, abs=1e-3))


# -- whose session -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
async def test_frames_for_an_unknown_session(one_stage: InProcessSwarm) -> None:
    async with open_raw(one_stage.nodes) as session:
        expected = await session.greedy(PROMPT, 2)
        session.session_id, own = secrets.token_bytes(16), session.session_id
        stray = session.stubs[0].StreamFrames()
        await stray.write(stage_pb2.StreamFramesRequest(session_id=session.session_id))
        assert type(await failure_of(stray)) is Refused
        lost = session.stubs[0].StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session.session_id))
        assert type(await failure_of(lost.read())) is Refused
        empty = session.stubs[0].StreamFrames()
        await empty.done_writing()
        assert type(await failure_of(empty)) is Refused
        session.session_id = own
        assert len(expected) == 2


@pytest.mark.usefixtures("impatient")
async def test_a_second_stream_is_refused_and_the_first_goes_on(two_stages: InProcessSwarm, target: TinyModel) -> None:
    async with open_raw(two_stages.nodes) as session:
        ids = await session.send_run(PROMPT, 0)
        first = (await session.verdict()).choice
        intruder = session.stubs[0].StreamFrames()
        await intruder.write(stage_pb2.StreamFramesRequest(session_id=session.session_id))
        assert type(await failure_of(intruder)) is Refused
        downstream = session.stubs[1].StreamFrames()
        await downstream.write(stage_pb2.StreamFramesRequest(session_id=session.session_id))
        assert type(await failure_of(downstream)) is Refused
        await session.send_run([first], ids[-1], keep=ids[-1])
        assert [first, (await session.verdict()).choice] == target.greedy(PROMPT, 2).token_ids


async def test_a_second_reader_of_verdicts_is_refused_and_the_first_goes_on(one_stage: InProcessSwarm) -> None:
    async with open_raw(one_stage.nodes) as session:
        await session.greedy(PROMPT, 2)
        thief = session.stubs[0].StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session.session_id))
        assert type(await failure_of(thief.read())) is Refused
        for _ in range(3):
            await session.send_run([9], 0)
            await session.verdict()


async def test_only_the_last_stage_gives_verdicts(two_stages: InProcessSwarm) -> None:
    async with open_raw(two_stages.nodes) as session:
        misled = session.stubs[0].StreamVerdicts(stage_pb2.StreamVerdictsRequest(session_id=session.session_id))
        assert type(await failure_of(misled.read())) is Refused
        assert len(await session.greedy(PROMPT, 2)) == 2


# -- malformed ---------------------------------------------------------------------------------------------------------


def frame(**columns: Any) -> dict[str, Any]:
    """The frame that follows PROMPT, sound until a column is replaced."""
    last = len(PROMPT)
    return {"nodes": [last + 1], "parents": [last], "tokens": [3], "wants_verdict": [True], "keep": last} | columns


def hidden(rows: int = 1, width: int = WIDTH, dtype: int = stage_pb2.DATA_TYPE_FLOAT32, fill: float = 0.5, cut: int = 0) -> Any:
    data = np.full((rows, width), fill, dtype=np.float32).tobytes()
    return stage_pb2.Tensor(dtype=dtype, shape=[rows, width], data=data[: len(data) - cut])  # type: ignore[arg-type]


BAD_AT_THE_FIRST = {
    "columns of different length": frame(tokens=[3, 4]),
    "no parents": frame(parents=[]),
    "a token outside the vocabulary": frame(tokens=[320]),
    "ids that do not grow": frame(nodes=[9, 8], parents=[6, 6], tokens=[1, 2], wants_verdict=[True, True]),
    "an id that was used": frame(nodes=[3]),
    "the root's id": frame(nodes=[0]),
    "an unknown parent above all ids": frame(parents=[90]),
    "its own parent": frame(parents=[7]),
    "keep names a node to come": frame(keep=90),
    "hidden states at the first stage": frame(hidden=hidden()),
}
BAD_AT_THE_LAST = {
    "no hidden states": frame(),
    "hidden states of another width": frame(hidden=hidden(width=WIDTH + 1)),
    "hidden states of other rows": frame(hidden=hidden(rows=2)),
    "hidden states of another type": frame(hidden=hidden(dtype=stage_pb2.DATA_TYPE_BFLOAT16)),
    "hidden states of no type": frame(hidden=hidden(dtype=stage_pb2.DATA_TYPE_UNSPECIFIED)),
    "hidden states of an unknown type": frame(hidden=hidden(dtype=9)),
    "hidden states too short": frame(hidden=hidden(cut=4)),
    "hidden states with NaN": frame(hidden=hidden(fill=float("nan"))),
    "hidden states with infinity": frame(hidden=hidden(fill=float("inf"))),
}


@pytest.mark.parametrize("what", BAD_AT_THE_FIRST)
async def test_a_malformed_frame_ends_its_session_alone(one_stage: InProcessSwarm, target: TinyModel, what: str) -> None:
    reference = target.greedy(PROMPT, 8)
    async with open_raw(one_stage.nodes) as good, open_raw(one_stage.nodes) as bad:
        await bad.send_run(PROMPT, 0)
        await bad.verdict()
        decoding = asyncio.create_task(good.greedy(PROMPT, 8))
        await bad.send(**BAD_AT_THE_FIRST[what])
        assert type(await bad.failure()) is ProtocolError
        assert type(await bad.verdict_failure()) is ProtocolError
        reference.assert_same(await decoding)
        assert one_stage.sessions == 1
    await one_stage.is_free()


@pytest.mark.parametrize("what", BAD_AT_THE_LAST)
async def test_malformed_hidden_states_end_their_session_alone(
    two_stages: InProcessSwarm, target: TinyModel, what: str
) -> None:
    reference = target.greedy(PROMPT, 8)
    async with open_raw(two_stages.nodes) as good, open_raw(two_stages.nodes[1:]) as bad:
        rows = len(PROMPT)
        ids = list(range(1, rows + 1))
        sound = {"nodes": ids, "parents": [0, *ids[:-1]], "tokens": PROMPT, "wants_verdict": [False] * (rows - 1) + [True]}
        await bad.send(**sound, hidden=hidden(rows=rows))
        await bad.verdict()
        decoding = asyncio.create_task(good.greedy(PROMPT, 8))
        await bad.send(**BAD_AT_THE_LAST[what])
        assert type(await bad.failure()) is ProtocolError
        assert type(await bad.verdict_failure()) is ProtocolError
        reference.assert_same(await decoding)
    await two_stages.is_free()


async def test_more_nodes_than_were_reserved(two_stages: InProcessSwarm) -> None:
    async with open_raw(two_stages.nodes, capacity=len(PROMPT)) as session:
        await session.send_run(PROMPT, 0)
        await session.verdict()
        await session.send_run([3], len(PROMPT), keep=len(PROMPT))
        error = await session.failure()
        assert type(error) is OutOfCapacity
        assert "reserve more" in str(error)
    await two_stages.is_free()


async def test_stale_nodes_and_empty_frames_do_no_harm(two_stages: InProcessSwarm, target: TinyModel) -> None:
    async with open_raw(two_stages.nodes) as session:
        ids = await session.send_run(PROMPT, 0, wanted=[])
        [lost] = await session.send_run([20], ids[-1], wanted=[])
        await session.send_run([21], ids[-1], keep=session.next_id, wanted=[])
        [kept] = [session.next_id - 1]
        await session.send_run([22, 23], lost, keep=kept)  # hangs off what keep has freed
        await session.send(keep=kept)
        await session.send()
        await session.send_run([24], kept, keep=kept)
        assert (await session.verdict()).choice == target.greedy([*PROMPT, 21, 24], 1).token_ids[0]


async def test_a_flood_that_has_become_stale_is_dropped_before_it_is_computed(
    two_stages: InProcessSwarm, target: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer frame's keep counts for what waits in the inbox and for the engine's turn, at every stage."""
    computed: list[int] = []
    go_on, forward = threading.Event(), Span.forward

    def held_up(span: Span, batch: Sequence[SpanInput]) -> list[torch.Tensor]:
        go_on.wait(10)
        computed.append(sum(len(frame.slots) for frame in batch))
        return forward(span, batch)

    async with open_raw(two_stages.nodes) as session:
        tip = (await session.send_run(PROMPT, 0))[-1]
        await session.verdict()
        monkeypatch.setattr(Span, "forward", held_up)
        await session.send_run([20], tip, wanted=[])  # is being computed when the others come
        for token in range(21, 51):
            await session.send_run([token], tip, wanted=[])
        await session.send_run([11], tip, keep=session.next_id)
        await asyncio.sleep(0.2)
        go_on.set()
        assert (await session.verdict()).choice == target.greedy([*PROMPT, 11], 1).token_ids[0]
    assert len(computed) <= 4, "at each of two stages the first frame, perhaps, and the last"


async def test_a_failure_that_nobody_foresaw_is_refused_in_one_line(
    two_stages: InProcessSwarm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(span: Span, batch: Sequence[SpanInput]) -> list[torch.Tensor]:
        raise RuntimeError("broken\nbeyond repair")

    async with open_raw(two_stages.nodes) as session:
        ids = await session.send_run(PROMPT, 0)
        await session.verdict()
        with monkeypatch.context() as patch:
            patch.setattr(Span, "forward", break_down)
            await session.send_run([9], ids[-1])
            error = await session.failure()
    assert type(error) is Refused
    assert "\n" not in str(error)
    assert "beyond repair" in caplog.text
    await two_stages.is_free()
    async with open_raw(two_stages.nodes) as session:
        assert len(await session.greedy(PROMPT, 2)) == 2


# -- losing a stage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dying", [1, 2, 3])
async def test_a_stage_that_dies_is_named(new_swarm: InProcessSwarm, target: TinyModel, dying: int) -> None:
    nodes = [await new_swarm.start(target, range(layer, layer + 1)) for layer in range(LAYERS)]
    async with open_raw(nodes) as session:
        await session.greedy(PROMPT, 2)
        await nodes[dying].kill()
        error = await session.failure()
        assert type(error) is PeerLost
        assert nodes[dying].address in str(error)
        assert str(error).count("stage at") == 1
        assert isinstance(await session.verdict_failure(), DsdError)
        await new_swarm.is_free()


async def test_a_stage_that_was_never_there_is_named(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    node = await new_swarm.start(target, range(2))
    gone = await new_swarm.start(target, range(2, LAYERS))
    async with open_raw([node, gone]) as session:
        await gone.kill()
        await session.send_run(PROMPT, 0)
        error = await session.failure()
        assert type(error) is PeerLost
        assert gone.address in str(error)


@pytest.mark.usefixtures("impatient")
async def test_a_next_stage_that_refuses_is_named(new_swarm: InProcessSwarm, target: TinyModel) -> None:
    nodes = [await new_swarm.start(target, span) for span in (range(2), range(2, LAYERS))]
    async with open_raw(nodes) as session:
        await close_session(nodes[1], session.session_id)
        await session.send_run(PROMPT, 0)
        error = await session.failure()
        assert type(error) is Refused
        assert nodes[1].address in str(error)


# -- turns and threads -------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """Forwards take a while; the store, the rows and the thread of each are noted when it begins."""
    begun: list[tuple[int, int, str]] = []
    forward = Span.forward

    def slowly(span: Span, batch: Sequence[SpanInput]) -> list[torch.Tensor]:
        begun.append((id(batch[0].kv), len(batch[0].slots), threading.current_thread().name))
        time.sleep(0.03)
        return forward(span, batch)

    monkeypatch.setattr(Span, "forward", slowly)
    return begun


async def test_a_long_prompt_does_not_hold_up_another_session(
    one_stage: InProcessSwarm, slow: list[tuple[int, int, str]]
) -> None:
    async with open_raw(one_stage.nodes, capacity=500) as long, open_raw(one_stage.nodes) as short:
        parent = 0
        for _ in range(12):
            parent = (await long.send_run([4] * 32, parent, wanted=[]))[-1]
        await eventually(lambda: len(slow) >= 2)
        for _ in range(3):
            begun = len(slow)
            await short.send_run([9], 0)
            await short.verdict()
            # The frame in progress, and at most one whose turn had come when ours arrived.
            ahead = [rows for _, rows, _ in slow[begun:]].index(1)
            assert ahead <= 1
        assert len(slow) < 12


async def test_turns_alternate(one_stage: InProcessSwarm, slow: list[tuple[int, int, str]]) -> None:
    async with open_raw(one_stage.nodes) as one, open_raw(one_stage.nodes) as other:
        for session in (one, other):
            for _ in range(6):
                await session.send_run([9], 0)
        for session in (one, other):
            for _ in range(6):
                await session.verdict()
    stores = [store for store, _, _ in slow]
    both = stores[1:-1]
    runs = max(_longest_run(both, store) for store in set(stores))
    assert runs <= 2, stores


def _longest_run(items: list[int], item: int) -> int:
    longest = current = 0
    for each in items:
        current = current + 1 if each == item else 0
        longest = max(longest, current)
    return longest


async def test_torch_never_runs_on_the_event_loop(two_stages: InProcessSwarm, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            threads.add(threading.current_thread().name.split("_")[0])
            assert threading.current_thread() is not threading.main_thread()
            return method(*arguments)

        return call

    for name in ("forward", "logits", "reserve"):
        monkeypatch.setattr(Span, name, watched(getattr(Span, name)))
    async with open_raw(two_stages.nodes) as session:
        assert len(await session.greedy(PROMPT, 3)) == 3
    assert threads == {"engine"}


async def test_a_reader_that_does_not_read_holds_up_nobody_else(one_stage: InProcessSwarm, target: TinyModel) -> None:
    node: InProcessNode = one_stage.nodes[0]
    async with open_raw([node], capacity=400) as lazy, open_raw([node]) as keen:
        lazy.answers.cancel()
        for _ in range(350):
            await lazy.send_run([9], 0, keep=0)
            if lazy.next_id > 300:
                break
        target.greedy(PROMPT, 4).assert_same(await keen.greedy(PROMPT, 4))
    await one_stage.is_free()
