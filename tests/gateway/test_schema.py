"""What the gateway answers is what its schema says, whatever it is asked: a few cases of each kind here, more under faults."""

import asyncio

import pytest
from schemathesis.generation import GenerationMode

from tests.gateway.conftest import ServedGateway
from tests.gateway.fuzzing import GATEWAY_DRAWS, OPERATIONS, fuzz

CASES = 15
pytestmark = GATEWAY_DRAWS


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
async def test_answers_are_as_the_schema_says(served_gateway: ServedGateway, path: str, method: str) -> None:
    statuses = await asyncio.to_thread(fuzz, served_gateway, path, method, GenerationMode.POSITIVE, CASES)
    assert statuses.get(200) or path == "/v1/models/{name}"


@pytest.mark.parametrize(("path", "method"), [operation for operation in OPERATIONS if operation[1] == "POST"])
async def test_what_the_schema_forbids_is_refused(served_gateway: ServedGateway, path: str, method: str) -> None:
    statuses = await asyncio.to_thread(fuzz, served_gateway, path, method, GenerationMode.NEGATIVE, CASES)
    assert statuses.get(400)
