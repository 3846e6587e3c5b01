"""The client of a swarm: an SDK, and the command line made of it.

`Client` and `SyncClient` are imported when they are first used: a command line that only prints its help needs neither.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsd_client.client import Client as Client
    from dsd_client.results import Chunk as Chunk
    from dsd_client.results import Result as Result
    from dsd_client.results import Stats as Stats
    from dsd_client.results import Token as Token
    from dsd_client.sync_client import SyncClient as SyncClient
    from dsd_core.decoding.choice.sampling import SamplingParams as SamplingParams
    from dsd_core.decoding.events import FinishReason as FinishReason
    from dsd_core.decoding.events import Origin as Origin
    from dsd_core.errors import DsdError as DsdError

_HOMES = {
    "Client": "dsd_client.client",
    "SyncClient": "dsd_client.sync_client",
    "Chunk": "dsd_client.results",
    "Result": "dsd_client.results",
    "Stats": "dsd_client.results",
    "Token": "dsd_client.results",
    "FinishReason": "dsd_core.decoding.events",
    "Origin": "dsd_core.decoding.events",
    "SamplingParams": "dsd_core.decoding.choice.sampling",
    "DsdError": "dsd_core.errors",
}

__all__ = [
    "Chunk",
    "Client",
    "DsdError",
    "FinishReason",
    "Origin",
    "Result",
    "SamplingParams",
    "Stats",
    "SyncClient",
    "Token",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
