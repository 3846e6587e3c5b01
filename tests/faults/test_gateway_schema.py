"""A thousand cases for each operation of the gateway: no 5xx, and nothing that its schema does not say."""

import asyncio

import pytest
from schemathesis.generation import GenerationMode

from tests.gateway.conftest import ServedGateway
from tests.gateway.fuzzing import OPERATIONS, fuzz

CASES = 500


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
async def test_a_thousand_cases(served_gateway: ServedGateway, path: str, method: str, mode: GenerationMode) -> None:
    if mode is GenerationMode.NEGATIVE and method == "GET" and "{" not in path:
        return
    statuses = await asyncio.to_thread(fuzz, served_gateway, path, method, mode, CASES)
    print(path, mode.value, statuses)
    assert not any(status >= 500 for status in statuses)
