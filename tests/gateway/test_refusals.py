"""What the gateway says no to, and how: OpenAI's shape, a status, the field that is at fault, and what to do."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai as sdk
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from dsd_client import Client
from dsd_client.gateway import server
from dsd_client.gateway.edge import MAX_BODY_BYTES
from dsd_client.gateway.requests import _UNSUPPORTED
from dsd_core.errors import AddressInUse, UsageError
from dsd_core.network import http_server
from tests.conftest import POSITIONS, InProcessSwarm, TinyModel
from tests.gateway.conftest import ServedGateway, served

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http(served_gateway: ServedGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served_gateway.url) as opened:
        yield opened


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "hello"),
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("max_completion_tokens", 1.5),
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("n", 0),
        ("n", 17),
        ("seed", 2**64),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ""),
        ("stream", "yes"),
        ("logprobs", 3),
        ("top_logprobs", 9),
        ("top_logprobs", 3),  # without logprobs
        ("model", None),
        ("model", 5),
    ],
)
async def test_an_invalid_field_is_named(http: httpx.AsyncClient, model: str, field: str, value: Any) -> None:
    body = {"model": model, "messages": HELLO, field: value}
    error = error_of(await http.post("/v1/chat/completions", json=body), 400)
    assert error["param"].split(".")[0] == field
    assert error["type"] == "invalid_request_error"
    assert field in error["message"]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "king", "content": "x"}], "messages.0.role"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages.0.content.0.type"),
        ([*HELLO, {"role": "user", "content": "\ud800"}], "messages.1.content"),
    ],
)
async def test_an_invalid_message_is_named(http: httpx.AsyncClient, model: str, messages: Any, param: str) -> None:
    content = json.dumps({"model": model, "messages": messages})
    headers = {"Content-Type": "application/json"}
    assert error_of(await http.post("/v1/chat/completions", content=content, headers=headers), 400)["param"] == param


@pytest.mark.parametrize("prompt", [None, 5, [], [[]], [-1], [10**6], ["a", 5], "", {"a": 1}, [1.5]])
async def test_an_invalid_prompt_is_named(http: httpx.AsyncClient, model: str, prompt: Any) -> None:
    error = error_of(await http.post("/v1/completions", json={"model": model, "prompt": prompt}), 400)
    assert error["param"].split(".")[0] == "prompt"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "{\"model\": NaN}", "\x00", "[" * 100_000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_what_is_no_body(http: httpx.AsyncClient, content: str, path: str) -> None:
    error_of(await http.post(path, content=content, headers={"Content-Type": "application/json"}), 400)


@pytest.mark.parametrize("name", sorted(_UNSUPPORTED))
async def test_what_would_not_be_obeyed_is_refused(http: httpx.AsyncClient, model: str, name: str) -> None:
    body = {"model": model, "prompt": "the", "max_tokens": 1}
    error = error_of(await http.post("/v1/completions", json={**body, name: "something"}), 400)
    assert error["param"] == name
    assert error["code"] == "unsupported_parameter"
    for asks_for_nothing in (None, *_UNSUPPORTED[name]):
        assert (await http.post("/v1/completions", json={**body, name: asks_for_nothing})).status_code == 200


async def test_an_unknown_field_is_ignored(http: httpx.AsyncClient, model: str) -> None:
    body = {"model": model, "prompt": "the", "max_tokens": 1, "user": "me", "flavour": {"of": "the month"}}
    assert (await http.post("/v1/completions", json=body)).status_code == 200


async def test_too_many_answers(http: httpx.AsyncClient, model: str) -> None:
    body = {"model": model, "prompt": ["a", "b"], "n": 9, "max_tokens": 1}
    assert error_of(await http.post("/v1/completions", json=body), 400)["param"] == "n"


async def test_a_prompt_that_is_too_long(openai: AsyncOpenAI, model: str) -> None:
    for asked in ({"prompt": [5] * POSITIONS}, {"prompt": "the", "max_tokens": POSITIONS}):
        for stream in (False, True):
            with pytest.raises(sdk.BadRequestError) as refused:
                await openai.completions.create(model=model, stream=stream, **asked)  # type: ignore[call-overload]
            assert refused.value.code == "context_length_exceeded"


async def test_a_body_that_is_too_long(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 65536 + 1):
            yield b" " * 65536

    headers = {"Content-Type": "application/json"}
    error_of(await http.post("/v1/completions", content=b" " * (MAX_BODY_BYTES + 1), headers=headers), 413)
    error_of(await http.post("/v1/completions", content=endless(), headers=headers), 413)


async def test_a_chat_that_the_template_does_not_allow(
    two_stages: InProcessSwarm, target: TinyModel, tmp_path: Path
) -> None:
    model = shutil.copytree(target.directory, tmp_path / "strict")
    (model / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    async with (
        Client(two_stages.addresses, str(model), "none") as client,
        served(client) as gateway,
        gateway.openai() as openai,
    ):
        with pytest.raises(sdk.BadRequestError, match="roles must alternate") as refused:
            await openai.chat.completions.create(model=gateway.model, messages=HELLO)
        assert refused.value.param == "messages"


# -- names, paths, keys ------------------------------------------------------------------------------------------------


async def test_an_unknown_model_suggests_the_nearest(openai: AsyncOpenAI, model: str) -> None:
    with pytest.raises(sdk.NotFoundError, match=f"did you mean '{model}'") as refused:
        await openai.completions.create(model=model[:-1] + "x", prompt="the")
    assert refused.value.param == "model"
    with pytest.raises(sdk.NotFoundError, match=f"serves '{model}'"):
        await openai.chat.completions.create(model="gpt-9", messages=HELLO)
    with pytest.raises(sdk.NotFoundError):
        await openai.models.retrieve("org/other")


async def test_paths_and_methods(http: httpx.AsyncClient) -> None:
    error_of(await http.get("/v2/models"), 404)
    refused = await http.get("/v1/completions")
    error_of(refused, 405)
    assert refused.headers["Allow"] == "POST"


async def test_the_key_is_asked_for(client: Client) -> None:
    async with served(client, api_key="the right one") as gateway, httpx.AsyncClient(base_url=gateway.url) as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dGhlIHJpZ2h0IG9uZQ=="}):
            for path in ("/v1/models", "/metrics"):
                refused = await http.get(path, headers=headers)
                assert error_of(refused, 401)["code"] == "invalid_api_key"
                assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert (await http.get("/health")).status_code == 200
        async with gateway.openai("the right one") as openai:
            said = await openai.completions.create(model=gateway.model, prompt="the", max_tokens=1)
            assert said.usage is not None
        with pytest.raises(sdk.AuthenticationError):
            async with gateway.openai("the wrong one") as openai:
                await openai.completions.create(model=gateway.model, prompt="the", max_tokens=1)


async def test_without_a_key_only_this_machines_names_are_answered(served_gateway: ServedGateway, client: Client) -> None:
    port = served_gateway.url.rpartition(":")[2]
    async with httpx.AsyncClient(base_url=served_gateway.url) as http:
        for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost"):
            assert (await http.get("/health", headers={"Host": host})).status_code == 200
        for host in (f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example:80"):
            error_of(await http.get("/health", headers={"Host": host}), 403)
    async with served(client, api_key="k") as gateway, httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.get("/health", headers={"Host": "gateway.example"})).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_a_key_is_required_beyond_loopback(host: str) -> None:
    with pytest.raises(UsageError, match="--api-key"):
        server.require_key_beyond_loopback(host, None)
    with pytest.raises(UsageError):
        server.require_key_beyond_loopback(host, "")
    server.require_key_beyond_loopback(host, "k")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_none_is_required_on_loopback(host: str) -> None:
    server.require_key_beyond_loopback(host, None)


def test_an_address_in_use() -> None:
    with http_server.listen("127.0.0.1", 0) as taken, pytest.raises(AddressInUse, match="try another"):
        http_server.listen("127.0.0.1", taken.getsockname()[1])
