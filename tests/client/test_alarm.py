"""An alarm rings once, and never too soon."""

import asyncio
import itertools
import time
from collections.abc import Sequence

import pytest

from dsd_client.alarm import Alarm

SOON, LATE = 0.02, 0.06


class Rung:
    """When it rang."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.alarm = Alarm(lambda: self.times.append(time.monotonic()))


@pytest.mark.parametrize("settings", [[SOON], [LATE, SOON], [SOON, LATE], [LATE, SOON, LATE], [SOON, SOON]])
async def test_it_rings_once_when_it_was_last_set_to(settings: Sequence[float]) -> None:
    rung, began = Rung(), time.monotonic()
    for due in settings:
        rung.alarm.set(began + due)
    await asyncio.sleep(2 * LATE)
    (rang,) = rung.times
    assert rang >= began + settings[-1]


async def test_what_is_past_rings_at_once() -> None:
    rung = Rung()
    rung.alarm.set(time.monotonic() - 1)
    await asyncio.sleep(SOON)
    assert len(rung.times) == 1


async def test_once_stopped_it_keeps_still_until_it_is_set_again() -> None:
    rung = Rung()
    rung.alarm.set(time.monotonic() + SOON)
    rung.alarm.stop()
    rung.alarm.stop()
    await asyncio.sleep(2 * SOON)
    assert not rung.times
    rung.alarm.set(time.monotonic())
    await asyncio.sleep(SOON)
    assert len(rung.times) == 1


async def test_it_may_be_set_as_it_rings() -> None:
    rung: list[float] = []

    def ring() -> None:
        rung.append(time.monotonic())
        if len(rung) < 3:
            alarm.set(rung[-1] + SOON / 2)

    alarm = Alarm(ring)
    alarm.set(time.monotonic())
    await asyncio.sleep(2 * LATE)
    assert len(rung) == 3
    assert all(later - sooner >= SOON / 2 for sooner, later in itertools.pairwise(rung))
