"""The parabola near the lowest losses: exact on parabolas, its reach chosen by what bends, cliffs kept out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hptransfer.validation.verdict.basin import BENDS, HIGH, MOST, Basin
from hptransfer.validation.verdict.smooth import compressed

X = np.arange(-6.0, 6.1, 0.5)
LEVELS = np.array([-0.3, 0.0, 0.3])


def bowl(at: float = 0.2, bend: float = 1e-4, x=X) -> np.ndarray:
    """Losses [points, 3 seeds]: a parabola so flat that the compression changes nothing, a level for every seed."""
    return 2 + bend * (x[:, None] - at) ** 2 + LEVELS


def basin(losses: np.ndarray, x=X) -> Basin:
    fitted = Basin.of(x, losses)
    assert fitted is not None
    return fitted


@pytest.mark.parametrize("at", [-0.2, 0.0, 0.13, 1.7])
def test_a_parabola_in_compressed_losses_is_found_exactly(at):
    y = bowl(at)
    fitted = basin(y)
    z = compressed(y.mean(axis=1)[fitted.near], fitted.scale)
    coefficients = np.polynomial.polynomial.polyfit(X[fitted.near], z, 2)
    place, loss = fitted.minimum(y.mean(axis=1))
    assert place == pytest.approx(-coefficients[1] / (2 * coefficients[2]))
    lowest = np.polynomial.polynomial.polyval(place, coefficients)
    assert loss == pytest.approx(y.mean(axis=1).min() + fitted.scale * math.expm1(lowest / fitted.scale))
    assert place == pytest.approx(at, abs=0.05)


def test_seeds_that_differ_in_level_only_bend_without_error_and_the_least_reach_suffices():
    fitted = basin(bowl())
    assert fitted.bend > 1e6 and np.abs(fitted.x).max() == pytest.approx(1.5)


def test_with_noise_the_reach_widens_until_the_parabola_bends():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(X), 3))
    reaches = []
    for size in (1e-4, 2e-2, 1.0):
        fitted = basin(bowl(0.0, 1e-2) + size * noise)
        reaches.append(np.abs(fitted.x).max())
        assert fitted.bend >= BENDS or reaches[-1] >= 4.0
    assert reaches == sorted(reaches) and reaches[0] == 1.5 and reaches[-1] >= 4.0


def test_the_bend_is_the_curvature_over_its_standard_error_by_least_squares():
    """Of the means over seeds on 1, x, x^2; the noise is what neither a point nor a seed explains, compressed too."""
    rng = np.random.default_rng(1)
    y = bowl(0.0, 1e-2) + 1e-3 * rng.standard_normal((len(X), 3))
    fitted = basin(y)
    near = y[fitted.near]
    rest = near - near.mean(axis=1, keepdims=True) - near.mean(axis=0) + near.mean()
    above = (near.mean(axis=1) - near.mean(axis=1).min()) / fitted.scale
    slopes = [1.0 if height <= HIGH else 1 / (1 + height - HIGH) for height in above]
    assert min(slopes) < 0.5 and max(slopes) == 1.0
    noise = ((np.array(slopes)[:, None] * rest) ** 2).sum() / ((len(near) - 1) * 2) / 3
    design = np.stack([np.ones_like(fitted.x), fitted.x, fitted.x**2], axis=1)
    z = compressed(near.mean(axis=1), fitted.scale)
    solution = np.linalg.lstsq(design, z, rcond=None)[0]
    error = math.sqrt(noise * np.linalg.inv(design.T @ design)[2, 2])
    assert fitted.bend == pytest.approx(solution[2] / error)


def test_a_rate_that_diverged_counts_as_the_highest_near_one_and_only_the_first():
    y = np.where(X[:, None] > 0.6, math.inf, bowl(0.2, 0.04))
    fitted = basin(y)
    assert X[fitted.near].tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0]
    z = compressed(y.mean(axis=1)[fitted.near], fitted.scale)
    assert z[-1] == max(z[:-1].max(), fitted.scale)
    place, _ = fitted.minimum(y.mean(axis=1))
    assert -0.5 < place <= 0.75  # never beyond halfway to the one that diverged


def test_the_vertex_stays_within_an_octave_of_the_lowest_point_and_between_those_that_were_run():
    slope = 2 + 0.01 * X[:, None] + LEVELS
    slope[X == -3.0] -= 1.0  # a dent: the lowest point
    fitted = basin(slope)
    assert abs(fitted.minimum(slope.mean(axis=1))[0] + 3.0) <= MOST
    edge = bowl(-9.0)
    assert basin(edge).minimum(edge.mean(axis=1))[0] == X[0]


def test_where_it_does_not_bend_upwards_the_lowest_point_is_taken():
    y = 2 - 0.01 * X[:, None] ** 2 + LEVELS
    y[X == 0.0] -= 0.001
    y[X == 1.0] -= 1.0
    fitted = basin(y)
    flipped = -y.mean(axis=1)
    place, loss = fitted.minimum(flipped)
    assert (place, loss) == (X[fitted.near][np.argmin(flipped[fitted.near])], flipped[fitted.near].min())


@pytest.mark.parametrize("finite", [0, 1, 2])
def test_fewer_than_three_points_are_no_basin(finite):
    x = np.arange(2.0)
    assert Basin.of(x[:finite], bowl(x=x)[:finite]) is None
    alone = np.where(np.arange(len(X))[:, None] < min(finite, 1), bowl(), math.inf)
    assert Basin.of(X, alone) is None


def test_noise_that_grows_with_the_loss_hides_no_bend():
    """A wall whose seeds differ a hundred times as much as those in the basin: compression takes both back."""
    x = np.arange(-1.0, 1.1, 0.5)
    rng = np.random.default_rng(3)
    level = np.array([0.01, 0.002, 0.0, 0.03, 0.15])
    noise = rng.standard_normal((5, 3)) * np.array([0.001, 0.001, 0.001, 0.01, 0.05])[:, None]
    fitted = basin(1 + level[:, None] + noise, x)
    assert fitted.bend > BENDS
    spread_evenly = basin(1 + level[:, None] + 0.05 * rng.standard_normal((5, 3)), x)
    assert spread_evenly.bend < BENDS


def test_one_seed_has_a_basin_whose_bend_is_not_known():
    fitted = basin(bowl()[:, :1])
    assert math.isnan(fitted.bend) and np.abs(fitted.x).max() == 1.5
