"""A gateway before a swarm of this process, behind a real socket, and OpenAI's own client to ask it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from dsd_client import Client
from dsd_client.gateway.gateway import Gateway, GatewayConfig
from dsd_client.gateway.server import serve
from dsd_core.network.http_server import listen
from tests.conftest import InProcessSwarm, TinyModel


class ServedGateway:
    """Where a gateway listens, and what it is."""

    def __init__(self, gateway: Gateway, url: str) -> None:
        self.gateway = gateway
        self.url = url

    @property
    def model(self) -> str:
        return self.gateway.model

    def openai(self, api_key: str = "none", **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, **options)


Serving = Callable[..., AbstractAsyncContextManager[ServedGateway]]


@asynccontextmanager
async def served(client: Client, **config: Any) -> AsyncIterator[ServedGateway]:
    """A gateway that serves until the block ends."""
    gateway = Gateway(client, GatewayConfig(**config))
    with listen("127.0.0.1", 0) as listener:
        serving = asyncio.create_task(serve(gateway, listener))
        try:
            yield ServedGateway(gateway, f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(two_stages: InProcessSwarm, target: TinyModel, drafter: TinyModel) -> AsyncIterator[Client]:
    async with Client(two_stages.addresses, str(target), str(drafter)) as opened:
        yield opened


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served_gateway(client: Client) -> AsyncIterator[ServedGateway]:
    async with served(client, max_new_tokens=24) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def openai(served_gateway: ServedGateway) -> AsyncIterator[AsyncOpenAI]:
    async with served_gateway.openai() as opened:
        yield opened


@pytest.fixture(scope="session")
def model(served_gateway: ServedGateway) -> str:
    return served_gateway.model
