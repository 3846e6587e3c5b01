"""A thousand cases for each operation of the gateway: no 5xx, and nothing that its schema does not say."""

import asyncio

import pytest
from schemathesis.generation import GenerationMode

from tests.gateway.conftest import ServedGateway, client, served_gateway  # noqa: F401
from tests.gateway.fuzzing import GATEWAY_DRAWS, OPERATIONS, fuzz

CASES = {"POST": 500, "GET": 1000}
"""Of each mode: a POST has two of them."""
pytestmark = GATEWAY_DRAWS


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    # A path without parameters allows nothing to be wrong with it.
    [(*one, mode) for one in OPERATIONS for mode in GenerationMode if one[1] == "POST" or mode is GenerationMode.POSITIVE],
)
async def test_a_thousand_cases(
    served_gateway: ServedGateway,  # noqa: F811
    path: str,
    method: str,
    mode: GenerationMode,
) -> None:
    statuses = await asyncio.to_thread(fuzz, served_gateway, path, method, mode, CASES[method])
    print(path, mode.value, statuses)
    assert not any(status >= 500 for status in statuses)
