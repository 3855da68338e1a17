"""The smooth curve against scikit-learn's Gaussian process, and its noise against a two-way analysis of variance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hptransfer.validation.verdict.smooth import AMPLITUDES, LENGTHS, Smoother, compressed

Array = np.ndarray
X = np.arange(-9.0, -1.0)


def losses(noise: float, seeds: int = 3, at: float = -5.3, cliff: float = math.inf, seed: int = 0) -> Array:
    """A parabola [8 points, seeds]; each seed has its own level, each entry its own noise; inf from the cliff on."""
    rng = np.random.default_rng(seed)
    clean = 2 + 0.05 * (X - at) ** 2
    level = 0.3 * rng.standard_normal(seeds)
    noisy = clean[:, None] + level + noise * rng.standard_normal((len(X), seeds))
    return np.where(X[:, None] >= cliff, math.inf, noisy)


def interaction(y: Array) -> float:
    """Variance of what neither a point nor a seed explains, by least squares on dummies, per mean over the seeds."""
    points, seeds = y.shape
    row, column = np.indices(y.shape).reshape(2, -1)
    design = np.hstack([np.eye(points)[row], np.eye(seeds)[column]])
    effects, _, rank, _ = np.linalg.lstsq(design, y.reshape(-1), rcond=None)
    residual = y.reshape(-1) - design @ effects
    return float(residual @ residual) / (y.size - rank) / seeds


def twin(y: Array, scale: float) -> tuple[Array, Array]:
    """(places, values) of the smooth curve by scikit-learn, with the likeliest of the same kernels."""
    gp = pytest.importorskip("sklearn.gaussian_process", reason="scikit-learn is not installed")
    kernels = gp.kernels
    means = y.mean(axis=1)
    finite = np.isfinite(means)
    lowest, z = means[finite].min(), compressed(means[finite], scale)
    noise = interaction(y[np.argsort(means)[:4]])
    # the delta method: dz/dy = 1 / (1 + (y - min y) / scale); and a jitter of 2% of the scale
    noises = noise / (1 + (means[finite] - lowest) / scale) ** 2 + (0.02 * scale) ** 2
    fits = [
        gp.GaussianProcessRegressor(
            kernels.ConstantKernel((a * z.std()) ** 2) * kernels.Matern(length, nu=2.5)
            + kernels.ConstantKernel((10 * z.std()) ** 2),
            alpha=noises,
            optimizer=None,
        ).fit(X[finite][:, None], z - z.mean())
        for length in LENGTHS
        for a in AMPLITUDES
    ]
    best = max(fits, key=lambda fit: fit.log_marginal_likelihood_value_)
    at = np.linspace(X[finite][0], X[finite][-1], 1 + 64 * int(X[finite][-1] - X[finite][0]))
    return at, best.predict(at[:, None]) + z.mean()


@pytest.mark.parametrize("noise", [0.003, 0.03, 0.2])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_curve_is_the_posterior_mean_of_the_likeliest_process(noise: float, seed: int) -> None:
    y = losses(noise, seed=seed)
    smoother = Smoother.of(X, y)
    assert smoother is not None
    at, values = twin(y, smoother.scale)
    z = compressed(y.mean(axis=1), smoother.scale)
    np.testing.assert_allclose(smoother.at, at)
    np.testing.assert_allclose(smoother.weights @ (z - z.mean()) + z.mean(), values, rtol=1e-6, atol=1e-9)
    assert smoother.minimum(y.mean(axis=1)) == at[np.argmin(values)]


def test_losses_are_compressed_linearly_at_first_and_logarithmically_then() -> None:
    y = np.array([3.0, 3.0 + 1e-6, 3.5, 3.0 + 0.5 * (math.e**2 - 1), math.inf])
    assert compressed(y, 0.5) == pytest.approx([0.0, 1e-6, 0.5 * math.log(2), 1.0, 1.0], rel=1e-6)
    assert compressed(np.array([3.0, 3.1, math.inf]), 0.5)[2] == 0.5  # at least one scale above the minimum


def test_the_scale_is_the_third_lowest_rise_or_twice_the_noise() -> None:
    quiet = (2 + 0.05 * (X + 5) ** 2)[:, None] + np.array([-0.1, 0.0, 0.1])  # seeds differ in level only: no noise
    smoother = Smoother.of(X, quiet)
    assert smoother is not None and smoother.scale == pytest.approx(0.05)  # best point, then one octave to either side
    loud = losses(1.0)
    smoother = Smoother.of(X, loud)
    noise = interaction(loud[np.argsort(loud.mean(axis=1))[:4]])
    rise = np.sort(loud.mean(axis=1))[2] - loud.mean(axis=1).min()
    assert smoother is not None and smoother.scale == pytest.approx(max(rise, 2 * math.sqrt(noise)))


def test_it_looks_no_further_than_halfway_to_the_first_diverged_rate() -> None:
    falling = np.where(X[:, None] >= -3, math.inf, (3 - 0.3 * X)[:, None] + np.array([-0.1, 0.0, 0.1]))
    smoother = Smoother.of(X, falling)
    assert smoother is not None
    assert smoother.at[0] == -9.0 and smoother.at[-1] == -3.5 and len(smoother.at) == 1 + 64 * 5.5
    assert smoother.used.tolist() == [0, 1, 2, 3, 4, 5, 6]  # one diverged point, counted as the highest finite one
    assert -4.5 < smoother.minimum(falling.mean(axis=1)) <= -3.5


@pytest.mark.parametrize("finite", [0, 1, 2])
def test_with_fewer_than_two_finite_points_there_is_no_curve(finite: int) -> None:
    y = np.where(np.arange(8)[:, None] < finite, losses(0.01), math.inf)
    assert (Smoother.of(X, y) is None) == (finite < 2)
    assert Smoother.of(X[:2], losses(0.01)[:2]) is None
