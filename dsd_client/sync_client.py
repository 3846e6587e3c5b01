"""The SDK without asyncio."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar, Unpack

from dsd_client.answer import AnswerStream
from dsd_client.client import MAX_NEW_TOKENS, TIMEOUT_SECONDS, Client, ConversationOptions
from dsd_client.results import Chunk, Result
from dsd_client.target_model import TargetModel
from dsd_core.decoding.choice.audit import FLOOR

Value = TypeVar("Value")

CLEANUP_SECONDS = 5.0


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
        data_dir: Path | None = None,
        insecure_loopback: bool = False,
        audit: float | None = FLOOR,
    ) -> None:
        self._client = Client(
            join, model, drafter, timeout=timeout, data_dir=data_dir, insecure_loopback=insecure_loopback, audit=audit
        )
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
        return self._iterate(chunks)

    @property
    def target(self) -> TargetModel:
        """The target's tokenizer and settings."""
        return self._client.target

    @contextmanager
    def conversation(self, *, positions: int, **options: Unpack[ConversationOptions]) -> Iterator["SyncAnswers"]:
        """A session of `positions` tokens in all, prompts and answers, that may be asked repeatedly."""
        opened = self._client.conversation(positions=positions, **options)
        answers = self._run(opened.__aenter__())
        try:
            yield SyncAnswers(self, answers)
        finally:
            self._run(opened.__aexit__(None, None, None))

    def _iterate(self, chunks: AsyncGenerator[Chunk, None]) -> Iterator[Chunk]:
        try:
            while (chunk := self._run(_next(chunks))) is not None:
                yield chunk
        finally:
            self._run(chunks.aclose())

    def _run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Wait for a coroutine of the loop's thread; Ctrl-C here cancels it there, and waits until it has cleaned up."""
        job = _Job(coroutine)
        try:
            self._loop.call_soon_threadsafe(job.start)
            return job.result()
        except KeyboardInterrupt:
            self._loop.call_soon_threadsafe(job.cancel)
            job.wait(CLEANUP_SECONDS)
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncAnswers:
    """`AnswerStream`, blocking."""

    def __init__(self, client: SyncClient, answers: AnswerStream) -> None:
        self._client = client
        self._answers = answers

    @property
    def result(self) -> Result:
        """The last answer, complete when its iteration has ended."""
        return self._answers.result

    def ask(self, prompt: Sequence[int], *, max_new_tokens: int, stop: Sequence[str] = ()) -> Iterator[Chunk]:
        """Chunks of the answer to `prompt`, all tokens from the first. Leaving early, by Ctrl-C too, ends the answer."""
        return self._client._iterate(self._answers.ask(prompt, max_new_tokens=max_new_tokens, stop=stop))


class _Job(Generic[Value]):
    """A coroutine on its way to the loop's thread. It can be cancelled at any time: Ctrl-C may come while it is handed over."""

    def __init__(self, coroutine: Coroutine[Any, Any, Value]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Value] | None = None
        self._outcome: Future[Value] = Future()

    def start(self) -> None:
        """In the loop's thread."""
        self._task = asyncio.ensure_future(self._coroutine)
        self._task.add_done_callback(self._finish)

    def cancel(self) -> None:
        """In the loop's thread, behind `start` if that was ever asked for."""
        if self._task is not None:
            self._task.cancel()
        else:
            self._coroutine.close()
            self._outcome.cancel()

    def result(self) -> Value:
        return self._outcome.result()

    def wait(self, seconds: float) -> None:
        """Until it has ended, cleaned up and all."""
        with suppress(CancelledError, TimeoutError):
            self._outcome.exception(seconds)

    def _finish(self, task: asyncio.Task[Value]) -> None:
        if task.cancelled():
            self._outcome.cancel()
        elif (error := task.exception()) is not None:
            self._outcome.set_exception(error)
        else:
            self._outcome.set_result(task.result())


async def _next(chunks: AsyncGenerator[Chunk, None]) -> Chunk | None:
    return await anext(chunks, None)
