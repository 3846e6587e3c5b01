import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd_core.decoding.lookahead.line_fit import LineFit

points = st.lists(st.tuples(st.integers(0, 32), st.floats(0, 10)), min_size=2, max_size=60)


@given(points, st.sampled_from([4.0, 32.0, 1e12]))
def test_it_is_the_weighted_least_squares_line(measured: list[tuple[int, float]], memory: float) -> None:
    fit = LineFit(memory=memory)
    for x, y in measured:
        fit.add(x, y)
    xs, ys = np.array(measured, dtype=float).T
    weights = (1 - 1 / memory) ** np.arange(len(xs))[::-1]
    if np.ptp(xs) < 1 or (weights * (xs - np.average(xs, weights=weights)) ** 2).sum() < 1e-6:
        return
    slope, offset = np.polyfit(xs, ys, 1, w=np.sqrt(weights))  # polyfit squares its weights
    if slope > 1e-6:
        assert fit.slope == pytest.approx(slope, rel=1e-5, abs=1e-7)
        assert fit.at(5) == pytest.approx(max(0.0, offset + 5 * slope), rel=1e-5, abs=1e-6)
    elif slope < -1e-6:
        assert fit.slope == 0
        assert fit.at(0) == fit.at(30) == pytest.approx(np.average(ys, weights=weights), abs=1e-7)


def test_nothing_is_known_before_the_first_point() -> None:
    assert LineFit().at(7) == 0
    assert LineFit().slope == 0


def test_a_single_x_makes_a_flat_line() -> None:
    fit = LineFit()
    for y in (1.0, 3.0):
        fit.add(4, y)
    assert fit.at(4) == fit.at(9) == pytest.approx(2.0, rel=0.02)


def test_it_never_promises_less_than_no_time() -> None:
    fit = LineFit()
    fit.add(10, 0.0)
    fit.add(20, 1.0)
    assert fit.at(0) == 0


def test_the_old_is_forgotten() -> None:
    fit = LineFit(memory=8)
    for x in range(100):
        fit.add(x % 5, 1 + 2 * (x % 5))
    for x in range(100):
        fit.add(x % 5, 5 + 3 * (x % 5))
    assert fit.slope == pytest.approx(3, abs=1e-3)
    assert fit.at(0) == pytest.approx(5, abs=1e-3)
    assert fit.weight == pytest.approx(8, rel=1e-6)
