"""The thread that torch runs in."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dsd_core.model.compute_thread import ComputeThread

PATIENCE = 10.0


@pytest_asyncio.fixture
async def thread() -> AsyncIterator[ComputeThread]:
    thread = ComputeThread("torch")
    yield thread
    thread.close()


class Held:
    """Work that begins, and goes on until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.let_go.wait(PATIENCE)
        return "done"


async def held_by(thread: ComputeThread) -> tuple[Held, asyncio.Future[str]]:
    work = Held()
    result = thread.submit(work)
    assert await asyncio.to_thread(work.begun.wait, PATIENCE)
    return work, result


async def test_one_at_a_time_in_order_of_asking_and_in_its_own_thread(thread: ComputeThread) -> None:
    names: list[tuple[int, str]] = []
    await asyncio.gather(*(thread.submit(lambda n=n: names.append((n, threading.current_thread().name))) for n in range(100)))
    assert names == [(n, "torch") for n in range(100)]


async def test_the_event_loop_goes_on_meanwhile(thread: ComputeThread) -> None:
    work, result = await held_by(thread)
    await asyncio.sleep(0.01)
    assert not result.done()
    work.let_go.set()
    assert await result == "done"


async def test_what_it_raises_is_raised_here_and_the_thread_goes_on(thread: ComputeThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.submit(lambda: 1 // 0)
    assert await thread.submit(lambda: 1) == 1


@pytest.mark.parametrize("begun", [True, False])
async def test_what_is_cancelled_is_done_all_the_same(thread: ComputeThread, begun: bool) -> None:
    """Its memory may be what a session gives back."""
    work, result = await held_by(thread)
    done: list[str] = []
    cancelled = thread.submit(lambda: done.append("done"))
    (result if begun else cancelled).cancel()
    work.let_go.set()
    assert await thread.submit(lambda: "next") == "next"
    assert done == ["done"]
    assert result.cancelled() is begun
    assert cancelled.cancelled() is not begun


async def test_closing_waits_for_what_is_being_done_and_cancels_the_rest(thread: ComputeThread) -> None:
    work, result = await held_by(thread)
    waiting = thread.submit(lambda: "never")
    threading.Timer(0.05, work.let_go.set).start()
    thread.close()
    assert await result == "done"
    assert waiting.cancelled()
    assert thread.submit(lambda: "never").cancelled()
    thread.close()


async def test_it_keeps_nothing_of_what_it_has_done(thread: ComputeThread) -> None:
    work = Held()
    work.let_go.set()
    gone = weakref.ref(work)
    await thread.submit(work)
    await thread.submit(lambda: None)
    del work
    gc.collect()
    assert gone() is None


def test_a_loop_that_has_ended_does_no_harm() -> None:
    thread, work = ComputeThread("torch"), Held()

    async def leave() -> None:
        thread.submit(work)

    asyncio.run(leave())
    work.let_go.set()
    assert asyncio.run(_answer(thread)) == "still here"
    thread.close()


async def _answer(thread: ComputeThread) -> str:
    return await thread.submit(lambda: "still here")
