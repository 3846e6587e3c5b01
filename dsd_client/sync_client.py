"""The SDK without asyncio."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from typing import Any, TypeVar, Unpack

from dsd_client.client import MAX_NEW_TOKENS, TIMEOUT_SECONDS, Client, ConversationOptions
from dsd_client.results import Chunk, Result

Value = TypeVar("Value")


class SyncClient:
    """What `Client` offers, blocking. Use `with`. It runs an event loop in a thread of its own.

    Do not use it beside a running `Client` in one process: gRPC's asyncio form wants one event loop a process.
    """

    def __init__(
        self,
        join: Sequence[str] = (),
        model: str | None = None,
        drafter: str | None = None,
        *,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self._client = Client(join, model, drafter, timeout=timeout)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dsd-client", daemon=True)

    def __enter__(self) -> "SyncClient":
        self._thread.start()
        try:
            self._run(self._client.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run(self._client.__aexit__())
        finally:
            self._stop()

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: Sequence[str] = (),
        **options: Unpack[ConversationOptions],
    ) -> Result:
        """The whole answer to a raw prompt."""
        return self._run(self._client.generate(prompt, max_new_tokens=max_new_tokens, stop=stop, **options))

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        stop: Sequence[str] = (),
        **options: Unpack[ConversationOptions],
    ) -> Iterator[Chunk]:
        """Chunks of the answer as they commit. Leaving the iteration ends the answer."""
        chunks = self._client.stream(prompt, max_new_tokens=max_new_tokens, stop=stop, **options)
        try:
            while (chunk := self._run(_next(chunks))) is not None:
                yield chunk
        finally:
            self._run(chunks.aclose())

    def _run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
    return await anext(chunks, None)
