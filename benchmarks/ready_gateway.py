"""A gateway whose every answer is there already: what it takes, the gateway takes and not the swarm.

    python -m benchmarks.ready_gateway
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from dsd_client.client import Client
from dsd_client.gateway.gateway import Gateway, GatewayConfig
from dsd_client.gateway.server import serve
from dsd_client.results import Chunk, Result, Stats, Token
from dsd_client.target_model import TargetModel
from dsd_core import command, embedded
from dsd_core.decoding.events import FinishReason, Origin
from dsd_core.network.http_server import listen

FIRST_TOKEN = 300
ROUTE = ("127.0.0.1:4100", "127.0.0.1:4101")


class ReadyAnswer:
    """As many tokens as are asked for, a chunk each."""

    def __init__(self, target: TargetModel) -> None:
        self._target = target

    async def ask(self, prompt: Sequence[int], *, max_new_tokens: int, stop: Sequence[str]) -> AsyncIterator[Chunk]:
        tokens = [self._token(FIRST_TOKEN + index) for index in range(max_new_tokens)]
        for token in tokens:
            await asyncio.sleep(0)  # the others' turn, as when a verdict is waited for
            yield Chunk((token,), ROUTE)
        self.result = Result(tuple(tokens), "".join(token.text for token in tokens), FinishReason.LENGTH, _stats(len(tokens)))

    def _token(self, token: int) -> Token:
        return Token(token, self._target.tokenizer.decode([token]), Origin.ACCEPTED)


def _stats(tokens: int) -> Stats:
    zeros: dict[str, Any] = dict.fromkeys(Stats.__dataclass_fields__, 0)
    return Stats(**{**zeros, "new_tokens": tokens, "accepted": tokens, "acceptance_mode": "exact", "policy": {}})


class ReadyClient:
    """What a gateway uses of a client."""

    def __init__(self) -> None:
        self.target = TargetModel.load(str(embedded.TARGET))

    @asynccontextmanager
    async def conversation(self, **_: object) -> AsyncIterator[ReadyAnswer]:
        yield ReadyAnswer(self.target)


async def main() -> None:
    """Print the port, and serve until stdin ends."""
    gateway = Gateway(cast(Client, ReadyClient()), GatewayConfig())
    with listen("127.0.0.1", 0) as listener:
        serving = asyncio.create_task(serve(gateway, listener))
        print(listener.getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        serving.cancel()
        await asyncio.wait([serving])


if __name__ == "__main__":
    command.run(main())
