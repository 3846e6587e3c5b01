"""What shares cores in virtual time, and the swarm that is replayed on them."""

import heapq
import itertools
import re
from collections.abc import Callable

import pytest

from benchmarks import shared_cores
from benchmarks.cores import Cores


class Agenda:
    """A clock and what is to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def call_in(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (self.now + seconds, next(self._order), happen))

    def run(self) -> None:
        while self._calls:
            self.now, _, happen = heapq.heappop(self._calls)
            happen()


def ends(count: float, jobs: list[tuple[float, bool]]) -> tuple[list[float], float]:
    """When jobs of so many milliseconds, of the client or not, that begin together are done; and how long cores were busy."""
    agenda, found = Agenda(), dict[int, float]()
    cores = Cores(count, agenda)
    for number, (milliseconds, is_clients) in enumerate(jobs):
        cores.run(milliseconds, lambda number=number: found.update({number: 1000 * agenda.now}), is_clients=is_clients)
    agenda.run()
    return [found[number] for number in range(len(jobs))], 1000 * cores.busy


def test_cores_are_divided_evenly_and_nobody_gets_more_than_one() -> None:
    assert ends(2, [(10, False)]) == (pytest.approx([10]), pytest.approx(10))
    assert ends(2, [(10, False), (10, False), (10, False)]) == (pytest.approx([15, 15, 15]), pytest.approx(30))
    assert ends(1, [(10, False), (20, False)]) == (pytest.approx([20, 30]), pytest.approx(30))


def test_the_clients_threads_share_one_interpreter() -> None:
    assert ends(4, [(10, True), (10, True), (10, False)]) == (pytest.approx([20, 20, 10]), pytest.approx(30))


async def test_more_cores_do_not_slow_one_frame_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    await shared_cores.main(["--cores", "1,8", "--prompts", "1", "--tokens", "24", "--stages", "2", "--delay", "1"])
    rows = re.findall(r"│ (\d+) +│ ([\d.]+) \((\d+)\)", capsys.readouterr().out)
    assert [cores for cores, _, _ in rows] == ["1", "8"]
    assert float(rows[1][1]) <= float(rows[0][1])
