"""Load, loss, and leaving: nobody waits without an end, nothing is lost without a word, nothing runs for nobody."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import openai as sdk
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from dsd_client import Client
from dsd_client.gateway import answers, readiness
from dsd_client.gateway.admission import Admission, AdmissionConfig
from dsd_client.gateway.answers import Answers, Question
from dsd_node.quotas import Limits
from tests.conftest import LAYERS, InProcessSwarm, TinyModel, eventually
from tests.gateway.conftest import ServedGateway, served

LONG: dict[str, Any] = {"prompt": "question: how many shells", "max_tokens": 400, "temperature": 1.5, "seed": 1}


async def begun(openai: AsyncOpenAI, model: str, **asked: Any) -> Any:
    """A stream that has said something."""
    stream = await openai.completions.create(model=model, stream=True, **LONG | asked)
    await anext(stream)
    return stream


# -- leaving -----------------------------------------------------------------------------------------------------------


async def test_who_leaves_a_stream_ends_the_answer(
    openai: AsyncOpenAI, served_gateway: ServedGateway, two_stages: InProcessSwarm, model: str
) -> None:
    stream = await begun(openai, model, n=3)
    assert two_stages.sessions > 0
    await stream.close()
    await two_stages.is_free()
    admission = served_gateway.gateway.admission
    await eventually(lambda: admission.running == admission.waiting == 0)


async def test_who_does_not_wait_for_an_answer_ends_it(
    openai: AsyncOpenAI, served_gateway: ServedGateway, two_stages: InProcessSwarm, model: str
) -> None:
    asking = asyncio.create_task(openai.completions.create(model=model, **LONG))
    await eventually(lambda: two_stages.sessions > 0)
    asking.cancel()
    await two_stages.is_free()
    await eventually(lambda: served_gateway.gateway.admission.running == 0)


class Impatient:
    """In place of a client: its answers wait until a moment, and from then on for ever."""

    def __init__(self, until: float) -> None:
        self.until = until

    @asynccontextmanager
    async def conversation(self, **_: Any) -> AsyncIterator[None]:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self.until):
                await asyncio.sleep(60)
        await asyncio.sleep(60)
        yield


async def test_an_answer_is_ended_even_in_the_moment_in_which_a_timeout_of_its_own_expires() -> None:
    loop = asyncio.get_running_loop()
    moment, leave = loop.time() + 0.05, asyncio.Event()
    question = Question([[1]], 1, 4, (), {})
    async with asyncio.timeout(2):
        async with Answers(Impatient(moment), Admission(AdmissionConfig()), question):  # type: ignore[arg-type]
            loop.call_at(moment - 1e-6, leave.set)
            loop.call_at(moment - 1e-3, time.sleep, 2e-3)  # so that both are due in one turn of the loop
            await leave.wait()


# -- load --------------------------------------------------------------------------------------------------------------


async def test_overload_says_when_to_come_back(client: Client, two_stages: InProcessSwarm) -> None:
    async with served(client, admission=AdmissionConfig(running=1, waiting=1)) as gateway, gateway.openai() as openai:
        running = await begun(openai, gateway.model)
        waiting = asyncio.create_task(openai.completions.create(model=gateway.model, **LONG | {"max_tokens": 4}))
        await eventually(lambda: gateway.gateway.admission.waiting == 1)
        for stream in (False, True):
            with pytest.raises(sdk.RateLimitError, match="try again later") as refused:
                await openai.completions.create(model=gateway.model, stream=stream, **LONG)
            assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 60
        with pytest.raises(sdk.BadRequestError, match="ask for fewer"):
            await openai.completions.create(model=gateway.model, n=3, **LONG)
        await running.close()
        assert (await waiting).usage.completion_tokens == 4
    await two_stages.is_free()


async def test_a_node_without_room_is_overload_too(target: TinyModel, new_swarm: InProcessSwarm) -> None:
    node = await new_swarm.start(target, range(LAYERS), limits=Limits(kv_bytes=1 << 30, sessions=2, peer_share=1.0))
    async with (
        Client([node.address], str(target), "none", timeout=0.5) as client,
        served(client) as gateway,
        gateway.openai() as openai,
    ):
        running = await begun(openai, gateway.model)
        for stream in (False, True):
            with pytest.raises(sdk.RateLimitError, match="try again later") as refused:
                await openai.completions.create(model=gateway.model, stream=stream, **LONG)
            assert int(refused.value.response.headers["Retry-After"]) >= 1
        await running.close()


async def test_a_stream_that_waits_is_kept_alive(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "QUIET_SECONDS", 0.05)
    async with served(client, admission=AdmissionConfig(running=1)) as gateway, gateway.openai() as openai:
        running = await begun(openai, gateway.model)
        body = {"model": gateway.model, "stream": True, **LONG, "max_tokens": 2}
        async with (
            httpx.AsyncClient(base_url=gateway.url) as http,
            http.stream("POST", "/v1/completions", json=body) as response,
        ):
            lines = response.aiter_lines()
            assert response.status_code == 200
            assert await anext(lines) == ": keep-alive"
            await running.close()
            assert [line async for line in lines][-2] == "data: [DONE]"


# -- loss --------------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def fragile(target: TinyModel, new_swarm: InProcessSwarm) -> AsyncIterator[ServedGateway]:
    """A gateway whose only node can be killed."""
    node = await new_swarm.start(target, range(LAYERS))
    async with Client([node.address], str(target), "none", timeout=1) as client, served(client) as gateway:
        yield gateway


async def test_a_swarm_lost_in_a_stream_is_told(fragile: ServedGateway, new_swarm: InProcessSwarm) -> None:
    async with fragile.openai() as openai:
        stream = await begun(openai, fragile.model)
        await new_swarm.nodes[0].kill()
        with pytest.raises(sdk.APIError, match="dsd-node") as lost:
            async for _ in stream:
                pass
        assert lost.value.type == "server_error"


async def test_the_last_event_of_a_lost_stream_is_the_error(fragile: ServedGateway, new_swarm: InProcessSwarm) -> None:
    body = {"model": fragile.model, "stream": True, **LONG}
    async with (
        httpx.AsyncClient(base_url=fragile.url, timeout=30) as http,
        http.stream("POST", "/v1/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        await new_swarm.nodes[0].kill()
        events = [line async for line in lines if line]
    assert "[DONE]" not in events[-1]
    error = json.loads(events[-1].removeprefix("data: "))["error"]
    assert error["code"] in ("peer_lost", "no_peers", "timed_out")


async def test_a_swarm_that_is_gone_is_not_ready(
    fragile: ServedGateway, new_swarm: InProcessSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with httpx.AsyncClient(base_url=fragile.url, timeout=30) as http:
        assert (await http.get("/ready")).json() == {"status": "ready"}
        await new_swarm.nodes[0].kill()
        monkeypatch.setattr(readiness, "FRESH_SECONDS", 0.0)
        refused = await http.get("/ready")
        assert refused.status_code in (503, 504)
        assert refused.json()["error"]["type"] == "server_error"
        assert (await http.get("/health")).status_code == 200
        async with fragile.openai() as openai:
            with pytest.raises(sdk.InternalServerError):
                await openai.completions.create(model=fragile.model, **LONG)


async def test_a_gateway_that_is_stopped_says_so(
    client: Client, two_stages: InProcessSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsd_client.gateway.server.GRACE_SECONDS", 0)
    lost: Exception | None = None
    async with served(client) as gateway:
        openai = gateway.openai()
        stream = await begun(openai, gateway.model)
    try:
        async for _ in stream:
            pass
    except sdk.APIError as error:
        lost = error
    assert "told to stop" in str(lost)
    await openai.close()
    await two_stages.is_free()


# -- figures -----------------------------------------------------------------------------------------------------------


async def test_metrics_count_what_was_answered(client: Client) -> None:
    async with served(client) as gateway, gateway.openai() as openai:
        for _ in range(2):
            await openai.completions.create(model=gateway.model, prompt="the", max_tokens=5, temperature=1.5, seed=1)
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            await http.get("/nowhere")
            text = (await http.get("/metrics")).text
    figures = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    assert figures['dsd_gateway_requests_total{path="/v1/completions",status="200"}'] == 2
    assert figures['dsd_gateway_requests_total{path="other",status="404"}'] == 1
    assert sum(value for name, value in figures.items() if name.startswith("dsd_gateway_new_tokens_total")) == 10
    assert figures["dsd_gateway_seconds_to_first_token_count"] == 2
    assert figures["dsd_gateway_running_answers"] == figures["dsd_gateway_waiting_answers"] == 0
