"""The thread that layers and drafts are computed in, so that the event loop never computes."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


class ComputeThread:
    """Does what it is given, one thing at a time, in order of asking.

    A pool of one thread does so too, by way of a second future with locks of its own: a hop between four nodes on one
    machine took a sixth longer (BENCHMARKS.md, "Transport").
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._thread = Thread(target=_do_all, args=(self._jobs,), name=name, daemon=True)

    def submit(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        """The result to come. Whoever cancels it does not hear of it, but the work is done: it may give memory back."""
        job = _Job(work, asyncio.get_running_loop().create_future())
        if self._closed:
            job.result.cancel()
            return job.result
        if self._thread.ident is None:
            self._thread.start()
        self._jobs.put(job)
        return job.result

    def close(self) -> None:
        """Wait for what is being done, and cancel the rest: what is not begun, and what is asked afterwards."""
        self._closed = True
        with suppress(Empty):
            while job := self._jobs.get_nowait():
                job.result.cancel()
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Any]
    result: asyncio.Future[Any]

    def do(self) -> None:
        try:
            outcome = self.work()
        except BaseException as error:  # whatever it is, whoever asked hears it
            self._settle(self.result.set_exception, error)
        else:
            self._settle(self.result.set_result, outcome)

    def _settle(self, settle: Callable[[Any], None], outcome: object) -> None:
        def settled() -> None:
            if not self.result.done():
                settle(outcome)

        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            self.result.get_loop().call_soon_threadsafe(settled)


def _do_all(jobs: "SimpleQueue[_Job | None]") -> None:
    while job := jobs.get():
        job.do()
        del job  # What it refers to may be a session's memory, and the next may be long in coming.
