"""How answers end, how sessions are given back, and what it costs to go on."""

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsd_client import Chunk, Client, FinishReason, SamplingParams, stage
from dsd_client.drafting import LocalDrafter
from dsd_core.decoding.drafting.contexts import Contexts
from dsd_core.decoding.events import DraftedToken
from dsd_core.errors import DsdError, NoPeers, OutOfCapacity, PromptTooLong, UsageError
from dsd_core.model.compute_thread import ComputeThread
from dsd_core.model.drafter import ModelDrafter
from dsd_core.model.span import Span
from dsd_node.served_session import session_ended
from tests.client.conftest import Clients
from tests.conftest import END, LAYERS, POSITIONS, InProcessSwarm, TinyModel, build_model, eventually, save

OtherFiles = Callable[..., Path]


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_tokens", [1, 2, 7])
@pytest.mark.parametrize("speculation", ["off", "blocking", "streaming"])
async def test_as_many_tokens_as_were_asked_for(
    clients: Clients, target: TinyModel, prompt: list[int], new_tokens: int, speculation: str
) -> None:
    client = await clients()
    result = await client.generate(prompt, max_new_tokens=new_tokens, speculation=speculation, lookahead=4 if new_tokens else 1)
    target.greedy(prompt, new_tokens).assert_same(result.token_ids)
    assert result.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("speculation", ["off", "blocking", "streaming"])
async def test_an_end_token_ends_the_answer(
    swarms: dict[int, InProcessSwarm], target: TinyModel, other_files: OtherFiles, prompt: list[int], speculation: str
) -> None:
    answer = target.greedy(prompt, 40).token_ids
    at = next(index for index in range(9, 40) if answer[index] not in answer[:index])
    model = other_files(generation_config=json.dumps({"eos_token_id": [0, answer[at]]}))
    async with Client(swarms[2].addresses, str(model), str(target)) as client:
        result = await client.generate(prompt, max_new_tokens=40, speculation=speculation, lookahead=4)
        assert result.token_ids == answer[: at + 1]
        assert result.finish_reason is FinishReason.STOP
        assert result.stats.new_tokens == at + 1
    await swarms[2].is_free()


async def test_the_end_token_has_no_text(clients: Clients, prompt: list[int], other_files: OtherFiles) -> None:
    client = await clients()
    end = client.target.tokenizer.convert_tokens_to_ids(END)
    assert end in client.target.end_tokens


async def test_the_models_own_sampling_is_the_default(
    swarms: dict[int, InProcessSwarm], target: TinyModel, other_files: OtherFiles, prompt: list[int]
) -> None:
    own = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.2}
    async with Client(swarms[1].addresses, str(other_files(generation_config=json.dumps(own))), "ngram") as client:
        assert client.target.sampling == SamplingParams(0.8, 0.9, 40, 1.2)
        ours = await client.generate(prompt, max_new_tokens=12)
        said = SamplingParams(0.8, 0.9, 40, 1.2, ours.stats.seed)
        assert (await client.generate(prompt, max_new_tokens=12, sampling=said)).token_ids == ours.token_ids
        greedy = await client.generate(prompt, max_new_tokens=12, sampling=SamplingParams())
        target.greedy(prompt, 12).assert_same(greedy.token_ids)


@pytest.mark.parametrize("lookahead", [None, 1, 4])
@pytest.mark.parametrize("start", [0, 3, 9])
async def test_a_stop_text_ends_the_answer(clients: Clients, prompt: list[int], lookahead: int | None, start: int) -> None:
    """The text is cut before it; the tokens go on to the one that completes it."""
    client = await clients()
    whole = await client.generate(prompt, max_new_tokens=30, lookahead=4)
    stop = whole.text[start : start + 4]
    cut = whole.text.find(stop)
    result = await client.generate(prompt, max_new_tokens=30, lookahead=lookahead, stop=["never", stop])
    assert result.text == whole.text[:cut]
    assert result.finish_reason is FinishReason.STOP
    texts = ["".join(token.text for token in whole.tokens[:count]) for count in range(31)]
    needed = next(count for count, text in enumerate(texts) if stop in text)
    assert result.token_ids == whole.token_ids[:needed]
    assert result.stats.new_tokens == needed == result.stats.accepted + result.stats.recovered + result.stats.bonus


async def test_a_stop_text_that_does_not_come_changes_nothing(clients: Clients, prompt: list[int]) -> None:
    client = await clients()
    whole = await client.generate(prompt, max_new_tokens=30)
    # Its beginning is what the answer ends with, so that is held back to the end.
    stop = whole.text[-3:] + "\N{SNOWMAN}"
    chunks = [chunk async for chunk in client.stream(prompt, max_new_tokens=30, stop=[stop])]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert (await client.generate(prompt, max_new_tokens=30, stop=[stop])).text == whole.text


# -- leaving early -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [True, False])
async def test_a_stream_that_is_left_frees_every_stage(
    clients: Clients, swarms: dict[int, InProcessSwarm], prompt: list[int], closed: bool
) -> None:
    client = await clients(4)
    stream = client.stream(prompt, max_new_tokens=200)
    async for _ in stream:
        assert swarms[4].sessions == 4
        break
    if closed:
        await stream.aclose()
        assert swarms[4].sessions == 0
    else:
        del stream  # as in `async for ...: break`
    await swarms[4].is_free()


async def test_an_answer_does_not_wait_for_its_reader(clients: Clients, target: TinyModel, prompt: list[int]) -> None:
    client = await clients()
    async with client.conversation(positions=200, speculation="streaming") as answers:
        asked = answers.ask(prompt, max_new_tokens=40)
        first = await anext(asked)
        await eventually(lambda: not answers._conversation.session.answering)
        (rest,) = [chunk async for chunk in asked]
    target.greedy(prompt, 40).assert_same([*first.token_ids, *rest.token_ids])


async def test_an_iteration_that_is_closed_late_leaves_the_next_answer_alone(
    clients: Clients, target: TinyModel, prompt: list[int]
) -> None:
    client = await clients()
    async with client.conversation(positions=200, speculation="streaming") as answers:
        left = answers.ask(prompt, max_new_tokens=4)
        await anext(left)
        await eventually(lambda: not answers._conversation.session.answering)
        asked = answers.ask(prompt, max_new_tokens=40)
        first = await anext(asked)
        await left.aclose()
        rest = [token for chunk in [chunk async for chunk in asked] for token in chunk.token_ids]
    target.greedy(prompt, 40).assert_same([*first.token_ids, *rest])


async def test_a_cancelled_answer_frees_every_stage(
    clients: Clients, swarms: dict[int, InProcessSwarm], prompt: list[int]
) -> None:
    client = await clients(4)
    for pause in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1):
        asking = asyncio.create_task(client.generate(prompt, max_new_tokens=400, lookahead=4))
        await asyncio.sleep(pause)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await swarms[4].is_free()
    assert len((await client.generate(prompt, max_new_tokens=3)).token_ids) == 3


@pytest.mark.parametrize("speculation", ["off", "blocking", "streaming"])
@pytest.mark.parametrize("chunks", [1, 2, 5])
async def test_an_answer_that_was_left_can_be_followed_by_another(
    clients: Clients, target: TinyModel, prompt: list[int], speculation: str, chunks: int
) -> None:
    client = await clients()
    async with client.conversation(positions=200, speculation=speculation, lookahead=4) as answers:
        asked = answers.ask(prompt, max_new_tokens=60)
        for _ in range(chunks):
            await anext(asked)
        await asked.aclose()
        assert answers.result.finish_reason is FinishReason.CANCELLED
        begun = answers.result.token_ids
        assert len(begun) >= chunks
        async with asyncio.timeout(10):
            for following in (prompt + begun + [40, 41], prompt + begun, prompt, [7, 8, 9]):
                async for _ in answers.ask(following, max_new_tokens=6):
                    pass
                target.greedy(following, 6).assert_same(answers.result.token_ids)


async def test_a_stop_text_can_be_followed_by_another_turn(clients: Clients, target: TinyModel, prompt: list[int]) -> None:
    client = await clients()
    whole = await client.generate(prompt, max_new_tokens=30)
    async with client.conversation(positions=200, lookahead=4) as answers:
        async for _ in answers.ask(prompt, max_new_tokens=30, stop=[whole.text[6:9]]):
            pass
        following = prompt + answers.result.token_ids + [50, 51, 52]
        async with asyncio.timeout(10):
            async for _ in answers.ask(following, max_new_tokens=8):
                pass
        target.greedy(following, 8).assert_same(answers.result.token_ids)


async def test_cancelled_in_the_middle_and_asked_again(clients: Clients, target: TinyModel, prompt: list[int]) -> None:
    client = await clients()
    async with client.conversation(positions=300, lookahead=4) as answers:

        async def ask() -> None:
            async for _ in answers.ask(prompt, max_new_tokens=200):
                pass

        for pause in (0.0, 0.002, 0.01, 0.05):
            asking = asyncio.create_task(ask())
            await asyncio.sleep(pause)
            asking.cancel()
            await asyncio.wait([asking])
        async with asyncio.timeout(10):
            async for _ in answers.ask(prompt, max_new_tokens=10):
                pass
        target.greedy(prompt, 10).assert_same(answers.result.token_ids)


async def test_one_question_at_a_time(clients: Clients, target: TinyModel, prompt: list[int]) -> None:
    """A second one is refused, and the first is answered in full."""
    client = await clients()
    async with client.conversation(positions=200) as answers:
        with pytest.raises(UsageError, match="no answer yet"):
            answers.result  # noqa: B018
        first = answers.ask(prompt, max_new_tokens=150)
        await anext(first)
        with pytest.raises(UsageError, match="still being answered"):
            await anext(answers.ask(prompt, max_new_tokens=5))
        async for _ in first:
            pass
        target.greedy(prompt, 150).assert_same(answers.result.token_ids)


# -- turns -------------------------------------------------------------------------------------------------------------


async def test_a_turn_sends_only_what_is_new(clients: Clients, target: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    from dsd_client import lane_link

    to_wire = lane_link.frame_to_wire
    monkeypatch.setattr(
        lane_link, "frame_to_wire", lambda frame, time: (sent.append(len(frame.nodes)), to_wire(frame, time))[1]
    )
    client = await clients(2)
    prompt = list(range(60, 160))
    async with client.conversation(positions=300, speculation="off") as answers:
        tokens, bytes_sent = list(prompt), []
        for _ in range(3):
            sent.clear()
            async for _ in answers.ask(tokens, max_new_tokens=10):
                pass
            target.greedy(tokens, 10).assert_same(answers.result.token_ids)
            bytes_sent.append(answers.result.stats.bytes_sent)
            turn = sum(sent)
            tokens += [*answers.result.token_ids, 30, 31, 32]
            assert answers.result.stats.prompt_tokens == len(tokens) - 13
    # The last token of the answer was not sent with the answer; then three new ones, and nine of the next answer.
    assert turn == 1 + 3 + 9
    assert bytes_sent[0] - bytes_sent[2] > 90 * 4
    assert bytes_sent[2] < 64 * turn


async def test_two_clients_at_once(swarms: dict[int, InProcessSwarm], target: TinyModel, drafter: TinyModel) -> None:
    prompts = [[10 + index, 20, 30 + index] for index in range(6)]
    async with (
        Client(swarms[4].addresses, str(target), str(drafter)) as one,
        Client(swarms[4].addresses, str(target), "ngram") as other,
    ):
        asked = [(one, other)[index % 2].generate(prompt, max_new_tokens=25) for index, prompt in enumerate(prompts)]
        for prompt, result in zip(prompts, await asyncio.gather(*asked), strict=True):
            target.greedy(prompt, 25).assert_same(result.token_ids)
    await swarms[4].is_free()


async def interruption(chunks: AsyncIterator[Chunk], during: Callable[[Chunk], Awaitable[None]]) -> DsdError:
    """The error that ends an answer, to each chunk of which something happens."""
    try:
        async for chunk in chunks:
            await during(chunk)
    except DsdError as error:
        return error
    raise AssertionError("the answer came to its end")


# -- losing a stage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dying", [0, 1, 2])
@pytest.mark.parametrize("speculation", ["off", "blocking", "streaming"])
async def test_what_there_was_outlives_the_peer(
    new_swarm: InProcessSwarm, target: TinyModel, drafter: TinyModel, prompt: list[int], dying: int, speculation: str
) -> None:
    nodes = [await new_swarm.start(target, span) for span in (range(1), range(1, 3), range(3, LAYERS))]
    reference = target.greedy(prompt, 300).token_ids
    shown: list[str] = []
    async with Client(new_swarm.addresses, str(target), str(drafter), timeout=0.5) as client:

        async def kill_after_eight(chunk: Chunk) -> None:
            shown.append(chunk.text)
            if len(shown) == 8:
                await nodes[dying].kill()

        chunks = client.stream(prompt, max_new_tokens=300, speculation=speculation, lookahead=3)
        error = await interruption(chunks, kill_after_eight)
        assert type(error) is NoPeers
        assert nodes[dying].address in str(error)
        assert len(error.token_ids) >= 8
        assert list(error.token_ids) == reference[: len(error.token_ids)]
        assert error.text == "".join(shown)
        await new_swarm.is_free()


async def test_a_stage_that_freezes(
    new_swarm: InProcessSwarm, target: TinyModel, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    await new_swarm.start(target, range(LAYERS))
    async with Client(new_swarm.addresses, str(target), "none", timeout=0.3) as client:
        shown: list[int] = []
        forward = Span.forward

        async def freeze_after_five(chunk: Chunk) -> None:
            shown.extend(chunk.token_ids)
            if len(shown) == 5:
                monkeypatch.setattr(Span, "forward", lambda *given: (time.sleep(1.2), forward(*given))[1])

        error = await interruption(client.stream(prompt, max_new_tokens=100), freeze_after_five)
        assert type(error) is NoPeers
        assert list(error.token_ids) == shown
        assert len(shown) >= 5


# -- drafters ----------------------------------------------------------------------------------------------------------


class Scripted:
    """A source of drafters that do as they are told, in a thread of their own."""

    def __init__(self, script: Callable[[Sequence[int], int], Any], opening: Exception | None = None) -> None:
        self.script = script
        self.opening = opening
        self.closed = 0
        self.thread = ComputeThread("drafter")

    async def open(self, rule: Any, capacity: int) -> Any:
        if self.opening is not None:
            raise self.opening
        return LocalDrafter("scripted", lambda: self, self.thread)

    def propose(self, contexts: Contexts, *, steps: int, candidates: int, least: float = 0.0) -> Any:
        proposed = [self.script((*contexts.trunk, *tail), steps) for tail in contexts.tails]
        return tuple((run,) if run else () for run in proposed)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
async def scripted(swarms: dict[int, InProcessSwarm], target: TinyModel) -> Any:
    return lambda source: _with_drafter(swarms[2], target, source)


def _with_drafter(swarm: InProcessSwarm, target: TinyModel, source: Scripted) -> Client:
    client = Client(swarm.addresses, str(target), "ngram")
    client._load_drafter = lambda _: source  # type: ignore[method-assign, assignment, return-value]
    return client


@pytest.mark.parametrize("error", [OutOfCapacity("no memory"), RuntimeError("a bug")], ids=["ours", "a bug"])
async def test_a_drafter_that_fails_ends_the_answer(
    swarms: dict[int, InProcessSwarm], scripted: Any, prompt: list[int], error: Exception
) -> None:
    def fail(context: Sequence[int], steps: int) -> Any:
        if len(context) > len(prompt) + 4:
            raise error
        return ()

    source = Scripted(fail)
    async with scripted(source) as client:
        with pytest.raises(type(error), match=str(error)):
            async with asyncio.timeout(5):
                await client.generate(prompt, max_new_tokens=30, lookahead=2)
    assert source.closed == 1
    await swarms[2].is_free()


async def test_a_drafter_that_cannot_open_leaves_nothing_behind(
    swarms: dict[int, InProcessSwarm], scripted: Any, prompt: list[int]
) -> None:
    async with scripted(Scripted(lambda *_: (), OutOfCapacity("no memory"))) as client:
        with pytest.raises(OutOfCapacity, match="no memory"):
            await client.generate(prompt, max_new_tokens=30)
        await swarms[2].is_free()


async def test_a_drafter_may_propose_anything(scripted: Any, target: TinyModel, prompt: list[int]) -> None:
    """Less than asked for, more, nothing, nonsense: the answer is the target's."""
    answers = [(), (7,), (7,) * 30, (0, 0), (319,)]

    def propose(context: Sequence[int], steps: int) -> Any:
        return tuple(DraftedToken(token, 0.5) for token in answers[len(context) % 5])  # type: ignore[arg-type]

    async with scripted(Scripted(propose)) as client:
        result = await client.generate(prompt, max_new_tokens=30, lookahead=3)
    target.greedy(prompt, 30).assert_same(result.token_ids)


async def test_a_drafter_that_stalls_keeps_nobody_waiting(scripted: Any, target: TinyModel, prompt: list[int]) -> None:
    """Streaming sends the tip whatever the drafter does: without drafts it is plain decoding."""
    go_on = threading.Event()

    def propose(context: Sequence[int], steps: int) -> Any:
        if len(context) > len(prompt) + 2:
            go_on.wait(20)
        return (DraftedToken(7, 0.9),)  # type: ignore[arg-type]

    try:
        async with (
            asyncio.timeout(15),
            scripted(Scripted(propose)) as client,
            client.conversation(positions=len(prompt) + 30, speculation="streaming") as answers,
        ):
            tokens = [token async for chunk in answers.ask(prompt, max_new_tokens=30) for token in chunk.token_ids]
            assert not go_on.is_set()
            go_on.set()
    finally:
        go_on.set()
    target.greedy(prompt, 30).assert_same(tokens)


async def test_a_slow_drafter_does_not_outlive_its_session(
    swarms: dict[int, InProcessSwarm], scripted: Any, prompt: list[int]
) -> None:
    import time

    source = Scripted(lambda context, steps: time.sleep(0.3) or ())
    async with scripted(source) as client:
        async with client.conversation(positions=100) as answers:
            for _ in range(3):
                asked = answers.ask(prompt, max_new_tokens=20)
                await anext(asked)
                await asked.aclose()
        assert source.closed == 1
        await swarms[2].is_free()


async def test_a_drafter_for_shorter_contexts_falls_silent(
    swarms: dict[int, InProcessSwarm], target: TinyModel, tokenizer: Any, tmp_path: Path
) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 32}
    model = build_model("qwen3", len(tokenizer), max_position_embeddings=64, rope_parameters=rope)
    short = save(model, tokenizer, tmp_path)
    async with Client(swarms[2].addresses, str(target), str(short)) as client:
        long = [int(token) for token in range(1, 121)]
        result = await client.generate(long, max_new_tokens=10, lookahead=4)
        target.greedy(long, 10).assert_same(result.token_ids)
        assert result.stats.drafted == 0
        # Blocking waits for its drafter: streaming may be past all that this one can see before it has begun.
        nearly = await client.generate(long[:58], max_new_tokens=20, lookahead=4, speculation="blocking")
        target.greedy(long[:58], 20).assert_same(nearly.token_ids)
        assert nearly.stats.drafted > 0


@pytest.mark.parametrize("is_near", [True, False])
async def test_on_one_machine_the_prompt_is_read_by_the_target_first(
    swarms: dict[int, InProcessSwarm], scripted: Any, prompt: list[int], monkeypatch: pytest.MonkeyPatch, is_near: bool
) -> None:
    """Over links the drafter reads it meanwhile."""
    monkeypatch.setattr(stage, "NEAR_SECONDS", math.inf if is_near else 0.0)
    drafting = threading.Event()
    busy = swarms[2].nodes[0].engine._turn
    async with scripted(Scripted(lambda *_: drafting.set() or ())) as client:
        async with busy:
            answer = asyncio.create_task(client.generate(prompt, max_new_tokens=8, speculation="blocking"))
            began = await asyncio.to_thread(drafting.wait, 0.5 if is_near else 10)
        await answer
    assert began is not is_near
    assert drafting.is_set()


@pytest.mark.parametrize(("near_seconds", "lanes", "engagements"), [(math.inf, 1, 1), (math.inf, 2, 0), (0.0, 1, 0)])
async def test_near_stages_are_asked_one_frame_at_a_time_until_streaming_has_shown_that_it_is_better(
    swarms: dict[int, InProcessSwarm],
    target: TinyModel,
    drafter: TinyModel,
    prompt: list[int],
    monkeypatch: pytest.MonkeyPatch,
    near_seconds: float,
    lanes: int,
    engagements: int,
) -> None:
    monkeypatch.setattr(stage, "NEAR_SECONDS", near_seconds)
    async with Client(swarms[2].addresses, str(target), str(drafter)) as client:
        result = await client.generate(prompt, max_new_tokens=8, lanes=lanes)
    assert result.stats.policy["guard_engagements"] == engagements


async def test_drafting_has_a_thread_of_its_own(clients: Clients, prompt: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    names: set[str] = set()
    guess = ModelDrafter.guess
    monkeypatch.setattr(ModelDrafter, "guess", lambda *given: (names.add(threading.current_thread().name), guess(*given))[1])
    await (await clients()).generate(prompt, max_new_tokens=5, speculation="blocking", lookahead=2)
    assert {name.split("_")[0] for name in names} == {"drafter"}


# -- the thread --------------------------------------------------------------------------------------------------------


async def test_a_drafter_is_closed_after_what_is_under_way() -> None:
    import time

    order: list[str] = []
    source = Scripted(lambda context, steps: (time.sleep(0.1), order.append("proposed"), ())[-1])
    source.close = lambda: order.append("closed")  # type: ignore[method-assign]
    drafter = await source.open(None, 1)
    asked = asyncio.create_task(drafter.propose(Contexts((), ((),)), steps=1, candidates=1))
    await asyncio.sleep(0.01)
    await drafter.close()
    await asked
    source.thread.close()
    assert order == ["proposed", "closed"]


async def test_an_answer_that_is_too_long(clients: Clients, swarms: dict[int, InProcessSwarm], prompt: list[int]) -> None:
    client = await clients()
    for asked in (POSITIONS, 10**12):
        with pytest.raises(PromptTooLong):
            await client.generate(prompt, max_new_tokens=asked)
    with pytest.raises(PromptTooLong):
        await client.generate([5] * (POSITIONS + 1), max_new_tokens=1)
    await swarms[2].is_free()


async def test_a_session_that_its_stage_closes_is_opened_anew(
    clients: Clients, swarms: dict[int, InProcessSwarm], target: TinyModel
) -> None:
    client = await clients(2)
    service = swarms[2].nodes[1].service
    async with client.conversation(positions=100, speculation="off") as answers:
        chunks = 0
        async for _ in answers.ask([5, 6, 7], max_new_tokens=60):
            chunks += 1
            for session_id in list(service._sessions) if chunks in (5, 20) else ():
                await service._close(session_id, session_ended())
        target.greedy([5, 6, 7], 60).assert_same(answers.result.token_ids)
        assert answers.result.stats.reroutes == 2
    await swarms[2].is_free()
