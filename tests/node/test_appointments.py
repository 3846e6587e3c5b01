"""Callers that are refused come again one after the other, about as fast as places become free."""

import pytest

from dsd_node.appointments import CALLERS, LONGEST_SECONDS, WIDEST_SECONDS, Appointments


def a_crowd(appointments: Appointments, callers: int, now: float) -> list[float]:
    return [appointments.make(now, soonest=2.0) for _ in range(callers)]


def test_the_first_comes_as_soon_as_anybody_may() -> None:
    assert Appointments().make(now=7.0, soonest=2.0) == 2.0


@pytest.mark.parametrize("every", [0.1, 0.4])
def test_a_crowd_is_spread_by_how_often_places_become_free(every: float) -> None:
    appointments = Appointments()
    for number in range(100):
        appointments.freed(number * every)
    waits = a_crowd(appointments, 11, now=100 * every)
    assert waits[0] == 2.0
    assert waits[-1] == pytest.approx(2.0 + 10 * every / CALLERS, rel=1e-3)


def test_where_places_are_seldom_free_nobody_waits_for_ever() -> None:
    appointments = Appointments()
    appointments.freed(0.0)
    appointments.freed(10_000.0)
    waits = a_crowd(appointments, 1000, now=10_000.0)
    assert waits[1] - waits[0] == pytest.approx(WIDEST_SECONDS)
    assert max(waits) == LONGEST_SECONDS


def test_a_crowd_of_yesterday_is_forgotten() -> None:
    appointments = Appointments()
    a_crowd(appointments, 1000, now=0.0)
    assert appointments.make(now=60.0, soonest=2.0) == 2.0
