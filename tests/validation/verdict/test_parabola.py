"""The parabola through the points near the best one, on curves that are parabolas where it looks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hptransfer.validation.verdict.optimum import CLIFF, parabola_minimum

X = np.arange(-3.0, 4.0)


def bowl(at: float, curvature: float = 0.04) -> np.ndarray:
    return 2 + curvature * (X - at) ** 2


def test_a_cliff_above_is_left_out_and_one_more_octave_below_is_taken() -> None:
    """Best at 0, wall from 1 on: the points at -2, -1 and 0 are on the parabola, whose minimum at .3 is met exactly."""
    walled = np.where(X >= 1, bowl(0.3) + 5, bowl(0.3))
    assert parabola_minimum(X, walled) == pytest.approx((0.3, 2.0))
    further = walled.copy()
    further[X == -3] += 100  # three octaves below: not looked at
    assert parabola_minimum(X, further) == pytest.approx((0.3, 2.0))


def test_the_minimum_stays_short_of_a_cliff_by_half_the_spacing() -> None:
    """The minimum of the points below, .9, lies beyond halfway to the wall's first point."""
    tilted = 2 + 0.04 * (X - 0.9) ** 2
    walled = np.where(X >= 1, tilted + 5, tilted)
    at, _ = parabola_minimum(X, walled)
    assert at == 0.5


@pytest.mark.parametrize("times", [0.98, 1.02])
def test_a_cliff_is_six_times_the_rise_below(times: float) -> None:
    """y(-1) = .1; y(1) below or above CLIFF x .1 decides whether the point above counts."""
    y = np.array([9.0, 0.4, 0.1, 0.0, times * CLIFF * 0.1, 9.0, 9.0])
    at, _ = parabola_minimum(X, y)
    if times < 1:  # through (-1, .1), (0, 0), (1, .588): -b / 2a = (y(-1) - y(1)) / (2 (y(-1) + y(1)))
        assert at == pytest.approx((0.1 - y[4]) / (2 * (0.1 + y[4])))
    else:  # through (-2, .4), (-1, .1), (0, 0): .1 u^2, least at 0
        assert at == pytest.approx(0.0, abs=1e-12)


def test_only_points_within_an_octave_count() -> None:
    far = bowl(0.2)
    far[np.abs(X) >= 2] += 3
    assert parabola_minimum(X, far) == pytest.approx((0.2, 2.0))
    fine = X / 2  # half an octave apart: five points within an octave
    y = 2 + 0.04 * (fine - 0.2) ** 2
    y[[0, -1]] += 3  # 1.5 octaves away
    assert parabola_minimum(fine, y) == pytest.approx((0.2, 2.0))


def test_a_coarse_grid_takes_its_own_neighbours() -> None:
    wide = 3 * X
    assert parabola_minimum(wide, 2 + 0.04 * (wide - 0.7) ** 2) == pytest.approx((0.7, 2.0))


def test_the_minimum_lies_between_the_neighbours_of_the_best_point() -> None:
    """Also at an edge: nothing lies beyond the grid, so the best point is it."""
    at, loss = parabola_minimum(X, bowl(-4.0))
    assert (at, loss) == (-3.0, bowl(-4.0)[0])
    at, loss = parabola_minimum(X, bowl(5.0))
    assert (at, loss) == (3.0, bowl(5.0)[-1])


def test_a_ridge_has_no_minimum_of_its_own() -> None:
    at, loss = parabola_minimum(np.arange(3.0), np.array([1.0, 1.5, 1.0 + 1e-9]))
    assert (at, loss) == (0.0, 1.0)


def test_two_finite_points_are_no_parabola() -> None:
    assert parabola_minimum(X, np.where(np.abs(X - 0.5) < 1, bowl(0.3), math.inf)) == (0.0, bowl(0.3)[3])


def test_a_dent_is_no_reason_to_leave_the_best_point_s_neighbours() -> None:
    """Half an octave apart, a parabola about .8 whose value at 0 is the lowest by chance: the fit says more than .5."""
    fine = X / 2
    y = 2 + 0.1 * (fine - 0.8) ** 2
    y[fine == 0] = y.min() - 0.004
    assert parabola_minimum(fine, y)[0] == 0.5
    # and below: the least-squares parabola of these five has its minimum at -.59
    below = 2 + np.array([9.0, 0.15, 0.13, 0.0, 0.65, 0.75, 9.0])
    assert parabola_minimum(fine, below)[0] == -0.5


def test_at_an_edge_of_a_fine_grid_nothing_beyond_it_is_best() -> None:
    """Three points within an octave make a parabola, whose minimum lies outside the grid."""
    fine = X / 2
    for at, end in ((-2.5, -1.5), (2.5, 1.5)):
        y = 2 + 0.1 * (fine - at) ** 2
        assert parabola_minimum(fine, y) == pytest.approx((end, y.min()))
