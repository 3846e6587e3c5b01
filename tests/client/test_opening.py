"""A session that cannot be opened gives back what it has already."""

from typing import Any

import pytest

from dsd_client import Client
from dsd_core.errors import UsageError
from tests.conftest import InProcessSwarm, TinyModel


async def test_a_session_whose_rule_cannot_be_found_gives_lane_and_drafter_back(
    two_stages: InProcessSwarm, target: TinyModel
) -> None:
    closed: list[str] = []

    class Drafter:
        name = "ours"

        async def propose(self, *_: Any, **__: Any) -> Any:
            raise UsageError("nothing comes to mind")

        async def close(self) -> None:
            closed.append(self.name)

    class Source:
        async def open(self, *_: Any) -> Drafter:
            return Drafter()

    async with Client(two_stages.addresses, str(target), Source()) as client:
        with pytest.raises(UsageError, match="comes to mind"):
            await client.generate([5, 6], max_new_tokens=3, acceptance="adaptive")
    assert closed == ["ours"]
    await two_stages.is_free()
