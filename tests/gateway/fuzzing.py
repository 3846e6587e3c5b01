"""Schemathesis asks a gateway what its schema allows, and what it does not."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.gateway.conftest import ServedGateway

OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/v1/dsd/swarm", "GET"),
    ("/metrics", "GET"),
    ("/health", "GET"),
    ("/ready", "GET"),
]
FEW_TOKENS = 3
GATEWAY_DRAWS = pytest.mark.filterwarnings("ignore:Do not use the `random` module")
"""The strategies do not: the gateway, in the same process, draws which peers to ask while they run."""


def fuzz(gateway: ServedGateway, path: str, method: str, mode: GenerationMode, cases: int) -> dict[int, int]:
    """Raises what schemathesis finds wrong. Returns how many responses had each status."""
    operation = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")[path][method]
    statuses: dict[int, int] = {}

    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            stream = sum(statuses.values()) % 2 == 0
            case.body |= {"model": gateway.model, "max_tokens": FEW_TOKENS, "max_completion_tokens": None, "stream": stream}
        # That top_logprobs needs logprobs, say, or how long a prompt may be, no schema says.
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

    ask()
    return statuses
