"""OpenAI's own client asks a swarm through the gateway, and gets what the SDK would have got."""

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from dsd_client import Client, SamplingParams
from dsd_client.chat_history import ChatHistory
from dsd_client.gateway.forms import _sayable
from tests.gateway.conftest import ServedGateway, served

PROMPT = "question: how many shells does mia have? answer: the quick"
MESSAGES: list[Any] = [{"role": "user", "content": "how many shells does mia have?"}]
CHOSEN: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "seed": 7}
SAMPLING = SamplingParams(temperature=0.9, top_p=0.95, seed=7)


async def chunks_of(openai: AsyncOpenAI, **asked: Any) -> list[ChatCompletionChunk]:
    stream = await openai.chat.completions.create(stream=True, messages=MESSAGES, **asked)
    return [chunk async for chunk in stream]


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(
        choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index
    )


# -- models ------------------------------------------------------------------------------------------------------------


async def test_models(openai: AsyncOpenAI, model: str) -> None:
    listed = [one async for one in openai.models.list()]
    assert [one.id for one in listed] == [model]
    assert (await openai.models.retrieve(model)).owned_by == "dsd"


# -- texts -------------------------------------------------------------------------------------------------------------


async def test_a_completion_is_what_the_sdk_says(openai: AsyncOpenAI, client: Client, model: str) -> None:
    result = await client.generate(PROMPT, max_new_tokens=20, sampling=SAMPLING)
    said = await openai.completions.create(model=model, prompt=PROMPT, max_tokens=20, **CHOSEN)
    assert said.choices[0].text == result.text
    assert said.choices[0].finish_reason == result.finish_reason.value
    assert said.usage is not None
    assert said.usage.prompt_tokens == result.stats.prompt_tokens
    assert said.usage.completion_tokens == result.stats.new_tokens
    assert said.usage.total_tokens == result.stats.prompt_tokens + result.stats.new_tokens


async def test_a_stream_says_the_same(openai: AsyncOpenAI, model: str) -> None:
    whole = await openai.completions.create(model=model, prompt=PROMPT, max_tokens=20, **CHOSEN)
    stream = await openai.completions.create(model=model, prompt=PROMPT, max_tokens=20, stream=True, **CHOSEN)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


async def test_a_chat_is_rendered_as_dsd_chat_does(openai: AsyncOpenAI, client: Client, model: str) -> None:
    history = ChatHistory(client.target)
    prompt = history.prompt(MESSAGES[0]["content"])
    result = await client.generate(prompt, max_new_tokens=20, sampling=SAMPLING, stop=history.stop)
    said = await openai.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=20, **CHOSEN)
    assert said.choices[0].message.content == result.text
    assert said.choices[0].message.role == "assistant"
    assert text_of(await chunks_of(openai, model=model, max_tokens=20, **CHOSEN)) == result.text


async def test_content_in_parts_is_one_text(openai: AsyncOpenAI, model: str) -> None:
    words = [{"type": "text", "text": "how many "}, {"type": "text", "text": "shells does mia have?"}]
    parts: list[Any] = [{"role": "user", "content": words}]
    texts = [
        (await openai.chat.completions.create(model=model, messages=asked, max_tokens=8)).choices[0].message.content
        for asked in (MESSAGES, parts)
    ]
    assert texts[0] == texts[1]


async def test_prompts_of_several_kinds(openai: AsyncOpenAI, client: Client, model: str) -> None:
    ids = client.target.tokens(PROMPT)
    whole = (await openai.completions.create(model=model, prompt=PROMPT, max_tokens=6)).choices[0].text
    for prompt in (ids, [ids, ids[:5]], [PROMPT, "the lazy dog"]):
        said = await openai.completions.create(model=model, prompt=prompt, max_tokens=6)  # type: ignore[call-overload]
        assert said.choices[0].text == whole
        assert [choice.index for choice in said.choices] == list(range(1 if prompt is ids else 2))


async def test_stop_ends_the_answer_before_it(openai: AsyncOpenAI, model: str) -> None:
    whole = (await openai.completions.create(model=model, prompt=PROMPT, max_tokens=20)).choices[0].text
    stop = whole[6:9]
    for asked in (stop, ["never", stop]):
        said = await openai.completions.create(model=model, prompt=PROMPT, max_tokens=20, stop=asked)
        assert said.choices[0].text == whole[: whole.find(stop)]
        assert said.choices[0].finish_reason == "stop"


async def test_without_max_tokens_the_gateway_decides(openai: AsyncOpenAI, served_gateway: ServedGateway, model: str) -> None:
    said = await openai.completions.create(model=model, prompt=PROMPT, **CHOSEN)
    assert said.usage is not None
    assert said.usage.completion_tokens == served_gateway.gateway.config.max_new_tokens


# -- several answers, seeds --------------------------------------------------------------------------------------------


async def test_n_answers_differ_under_one_seed_and_come_again(openai: AsyncOpenAI, client: Client, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 12, "n": 3, **CHOSEN}
    first = [choice.text for choice in (await openai.completions.create(**asked)).choices]
    again = [choice.text for choice in (await openai.completions.create(**asked)).choices]
    assert first == again
    assert len(set(first)) == 3
    options: dict[str, Any] = {"max_new_tokens": 12, "sampling": SAMPLING}
    assert first == [(await client.generate(PROMPT, choice_index=index, **options)).text for index in range(3)]


async def test_n_answers_in_one_stream(openai: AsyncOpenAI, model: str) -> None:
    whole = await openai.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12, n=3, **CHOSEN)
    chunks = await chunks_of(openai, model=model, max_tokens=12, n=3, stream_options={"include_usage": True}, **CHOSEN)
    assert [text_of(chunks, index) for index in range(3)] == [choice.message.content for choice in whole.choices]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    one = await openai.chat.completions.create(model=model, messages=MESSAGES, max_tokens=12, **CHOSEN)
    assert whole.usage is not None
    assert one.usage is not None
    assert whole.usage.prompt_tokens == one.usage.prompt_tokens
    assert whole.usage.completion_tokens > one.usage.completion_tokens


async def test_a_negative_seed_is_a_seed(openai: AsyncOpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 1.0}
    said = [await openai.completions.create(**asked, seed=seed) for seed in (-3, -3, 2**64 - 3)]
    assert len({one.choices[0].text for one in said}) == 1


async def test_an_unset_seed_is_fresh_and_told(openai: AsyncOpenAI, model: str) -> None:
    asked: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 1.0}
    said = await openai.completions.create(**asked)
    other = await openai.completions.create(**asked)
    assert said.choices[0].text != other.choices[0].text
    told: Any = said.model_extra
    again = await openai.completions.create(**asked, seed=told["dsd"]["seed"])
    assert again.choices[0].text == said.choices[0].text


# -- log-probabilities -------------------------------------------------------------------------------------------------


async def test_logprobs_of_a_chat(openai: AsyncOpenAI, model: str) -> None:
    said = await openai.chat.completions.create(
        model=model, messages=MESSAGES, max_tokens=10, temperature=0, logprobs=True, top_logprobs=3
    )
    assert said.choices[0].logprobs is not None
    content = said.choices[0].logprobs.content
    assert content is not None
    assert len(content) == 10
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob == max(top.logprob for top in token.top_logprobs) <= 0
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    chunks = await chunks_of(openai, model=model, max_tokens=10, temperature=0, logprobs=True, top_logprobs=3)
    parts = [choice.logprobs.content or [] for chunk in chunks for choice in chunk.choices if choice.logprobs]
    streamed = [token for part in parts for token in part]
    assert [one.token for one in streamed] == [one.token for one in content]
    assert [one.logprob for one in streamed] == pytest.approx([one.logprob for one in content], abs=1e-4)


async def test_logprobs_without_a_top(openai: AsyncOpenAI, model: str) -> None:
    said = await openai.chat.completions.create(model=model, messages=MESSAGES, max_tokens=3, logprobs=True, **CHOSEN)
    assert said.choices[0].logprobs is not None
    assert [token.top_logprobs for token in said.choices[0].logprobs.content or []] == [[], [], []]


async def test_logprobs_of_a_completion(openai: AsyncOpenAI, client: Client, model: str) -> None:
    said = await openai.completions.create(model=model, prompt=PROMPT, max_tokens=10, logprobs=2, temperature=0)
    logprobs = said.choices[0].logprobs
    assert logprobs is not None
    result = await client.generate(PROMPT, max_new_tokens=10, logprobs=2)
    assert logprobs.token_logprobs == pytest.approx([token.log_prob for token in result.tokens], abs=1e-4)
    assert logprobs.text_offset is not None
    ends = [*logprobs.text_offset[1:], len(said.choices[0].text)]
    cut = [said.choices[0].text[a:b] for a, b in zip(logprobs.text_offset, ends, strict=True)]
    assert cut == [token.text for token in result.tokens]


# -- telemetry ---------------------------------------------------------------------------------------------------------


async def test_our_figures_are_in_one_object(openai: AsyncOpenAI, client: Client, model: str) -> None:
    result = await client.generate(PROMPT, max_new_tokens=20, sampling=SAMPLING)
    said: Any = await openai.completions.create(
        model=model, prompt=PROMPT, max_tokens=20, extra_body={"dsd": {"tokens": True}}, **CHOSEN
    )
    told = said.model_extra["dsd"]
    assert told["seed"] == 7
    assert told["new_tokens"] == 20 == told["accepted"] + told["recovered"] + told["bonus"]
    assert len(told["route"]) == 2
    assert "".join(token["text"] for token in told["tokens"]) == result.text
    assert {token["origin"] for token in told["tokens"]} <= {"accepted", "recovered", "bonus"}


async def test_a_stream_ends_with_our_figures(openai: AsyncOpenAI, model: str) -> None:
    chunks: list[Any] = await chunks_of(openai, model=model, max_tokens=9, extra_body={"dsd": {"tokens": True}})
    *parts, last = [chunk.model_extra.get("dsd") for chunk in chunks]
    assert last["new_tokens"] == 9
    assert "".join(token["text"] for part in parts for token in part["tokens"]) == text_of(chunks)
    silent: list[Any] = await chunks_of(openai, model=model, max_tokens=9)
    assert [chunk for chunk in silent[:-1] if "dsd" in chunk.model_extra] == []


async def test_a_gateway_that_accepts_adaptively_says_what_it_gave_away(client: Client) -> None:
    """Of all answers together, and of each token."""
    lax: Any = {"acceptance": "adaptive", "tolerance": 20.0, "latency_factor": 1.0, "speculation": "blocking", "lookahead": 4}
    async with served(client, options=lax) as gateway, gateway.openai() as openai:
        asked: Any = {"model": gateway.model, "prompt": PROMPT, "max_tokens": 40, "n": 4, "temperature": 0.9, "seed": 7}
        said: Any = await openai.completions.create(**asked, extra_body={"dsd": {"tokens": True}})
    told = said.model_extra["dsd"]
    assert (told["acceptance_mode"], told["tolerance"], told["latency_factor"]) == ("adaptive", 20.0, 1.0)
    assert told["relaxed"] == [token["origin"] for token in told["tokens"]].count("relaxed") > 0
    assert told["drift_nats"] >= told["drift_max_nats"] > 0


# -- many --------------------------------------------------------------------------------------------------------------


async def test_32_streams_at_once_lose_nothing(openai: AsyncOpenAI, client: Client, model: str) -> None:
    async def text(seed: int) -> str:
        return text_of(await chunks_of(openai, model=model, max_tokens=12, temperature=1.0, seed=seed))

    streamed = await asyncio.gather(*map(text, range(32)))
    history = ChatHistory(client.target)
    prompt = history.prompt(MESSAGES[0]["content"])
    for seed, said in enumerate(streamed):
        if seed % 8 == 0:
            sampling = SamplingParams(temperature=1.0, seed=seed)
            assert said == (await client.generate(prompt, max_new_tokens=12, sampling=sampling, stop=history.stop)).text
    assert len(set(streamed)) > 28


def test_figures_that_json_cannot_say_are_null() -> None:
    assert _sayable({"p": float("inf"), "plan": {"q": float("nan")}, "k": 4}) == {"p": None, "plan": {"q": None}, "k": 4}
