"""Eigenlearning against simulated ridge and kernel regression."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hptransfer.core.errors import UsageError
from hptransfer.mechanics.eigenlearning import eigenlearning, spectrum_of


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize("samples", [5, 40, 150])
def test_learnability_is_conserved(samples: int, ridge: float) -> None:
    found = eigenlearning(np.arange(1, 301) ** -1.5, samples, ridge=ridge)
    assert found.total_learnability() == pytest.approx(samples, rel=1e-10)
    assert ((found.learnability > 0) & (found.learnability < 1)).all()
    assert (np.diff(found.learnability) < 0).all(), "larger eigenvalues are learnt first"
    assert found.overfitting > 1


def test_multiplicity_is_repetition() -> None:
    packed = eigenlearning([1.0, 0.1], 6, ridge=0.1, multiplicity=[3, 10])
    spread = eigenlearning([1.0] * 3 + [0.1] * 10, 6, ridge=0.1)
    assert packed.kappa == pytest.approx(spread.kappa, rel=1e-12)
    assert packed.test_error([3.0, 1.0]) == pytest.approx(spread.test_error([1.0] * 3 + [0.1] * 10))


@pytest.mark.parametrize(("samples", "ridge", "noise"), [(40, 0.5, 0.1), (80, 0.05, 0.0), (120, 1.0, 0.5)])
def test_forecast_equals_simulated_ridge_regression(samples: int, ridge: float, noise: float) -> None:
    """Gaussian features of variance lambda_i are a kernel with that spectrum. 200 draws; test error exactly, given
    the fit: sum (v_i - fitted_i)^2 + noise. Four standard errors, plus 2% for corrections of order 1/n."""
    rng, values = np.random.default_rng(0), np.arange(1, 201) ** -1.3
    coefficients = rng.standard_normal(200) * np.arange(1, 201) ** -0.8
    test, train = [], []
    for _ in range(200):
        phi = rng.standard_normal((samples, 200))
        y = phi @ coefficients + math.sqrt(noise) * rng.standard_normal(samples)
        alpha = np.linalg.solve((phi * values) @ phi.T + ridge * np.eye(samples), y)
        fitted = values * (phi.T @ alpha)
        test.append(np.square(coefficients - fitted).sum() + noise)
        train.append(np.square(y - phi @ fitted).mean())
    found = eigenlearning(values, samples, ridge=ridge)
    for simulated, forecast in (
        (test, found.test_error(coefficients**2, noise=noise)),
        (train, found.train_error(coefficients**2, noise=noise)),
    ):
        error = np.std(simulated, ddof=1) / math.sqrt(len(simulated))
        assert abs(np.mean(simulated) - forecast) < 4 * error + 0.02 * forecast


def circle(samples: int, ridge: float) -> tuple[float, float]:
    """(forecast, simulated) error of k(x, x') = sum m^-2 cos m(x - x') on uniform points of the circle, two
    harmonics."""
    rng, m = np.random.default_rng(1), np.arange(1, 61)
    lam, grid = m**-2.0, np.linspace(0, 2 * np.pi, 400, endpoint=False)
    spectrum, counts = np.concatenate([[0.5], lam / 2]), np.concatenate([[1], 2 * np.ones(60)])
    power = np.zeros(61)
    power[2], power[7] = 0.5, 0.5 * 0.36

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 0.5 + np.tensordot(lam, np.cos(m[:, None, None] * (a[:, None] - b[None])), axes=1)

    def target(x: np.ndarray) -> np.ndarray:
        return np.cos(2 * x) + 0.6 * np.sin(7 * x)

    errors = []
    for _ in range(60):
        x = rng.uniform(0, 2 * np.pi, samples)
        prediction = kernel(grid, x) @ np.linalg.solve(kernel(x, x) + ridge * np.eye(samples), target(x))
        errors.append(np.square(prediction - target(grid)).mean())
    forecast = eigenlearning(spectrum, samples, ridge=ridge, multiplicity=counts).test_error(power)
    return forecast, float(np.mean(errors))


def test_the_circle_with_ridge_is_forecast_and_without_it_is_not() -> None:
    """One dimension is the worst case for universality: with a ridge of 1 the forecast is within 10%; without,
    random gaps between neighbours are as bad as the forecast is good, and it is too low by more than 1.4. A limit,
    held here as a fact."""
    forecast, simulated = circle(40, 1.0)
    assert forecast == pytest.approx(simulated, rel=0.1)
    forecast, simulated = circle(20, 0.0)
    assert simulated > 1.4 * forecast


def test_the_spectrum_of_a_pool_forecasts_samples_of_it() -> None:
    """RBF kernel on 800 points of the sphere in 10-d; 40 draws, with replacement, of 30 and 60 points, error over
    the whole pool: 8% (universality is approximate) and 4 standard errors."""
    rng = np.random.default_rng(2)
    points = rng.standard_normal((800, 10))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    kernel = np.exp(-np.square(points[:, None] - points[None]).sum(axis=2))
    y = np.sin(2 * points[:, 0]) + points[:, 1] * points[:, 2]
    values, power = spectrum_of(kernel, y)
    assert values.sum() == pytest.approx(1.0, rel=1e-9) and power.sum() == pytest.approx(np.square(y).mean(), rel=1e-3)
    for samples in (30, 60):
        errors = []
        for _ in range(40):
            chosen = rng.choice(800, samples)
            alpha = np.linalg.solve(kernel[np.ix_(chosen, chosen)] + 0.05 * np.eye(samples), y[chosen])
            errors.append(np.square(kernel[:, chosen] @ alpha - y).mean())
        forecast = eigenlearning(values, samples, ridge=0.05).test_error(power)
        assert abs(np.mean(errors) - forecast) < 0.08 * forecast + 4 * np.std(errors, ddof=1) / math.sqrt(40)


def test_more_samples_than_modes_is_least_squares() -> None:
    """kappa = 0: all is learnt, noise is amplified by n/(n - modes), and the peak lies at n = modes."""
    found = eigenlearning([1.0, 0.5, 0.1], 12)
    assert found.kappa == 0 and found.test_error([1.0, 2.0, 3.0], noise=0.3) == pytest.approx(0.3 * 12 / 9)
    assert found.train_error([1.0, 2.0, 3.0], noise=0.3) == pytest.approx(0.3 * 9 / 12)
    assert math.isinf(eigenlearning([1.0, 0.5, 0.1], 3).overfitting)
    assert eigenlearning([1.0, 0.5, 0.1], 2).train_error([1.0, 1.0, 1.0]) == 0.0


def test_refusals() -> None:
    with pytest.raises(UsageError, match="positive eigenvalues"):
        eigenlearning([1.0, 0.0], 3)
    with pytest.raises(UsageError, match="need > 0 and >= 0"):
        eigenlearning([1.0], 3, ridge=-1.0)
    with pytest.raises(UsageError, match="power has shape"):
        eigenlearning([1.0, 0.5], 3).test_error([1.0])
    with pytest.raises(UsageError, match=r"need \(N, N\) and"):
        spectrum_of(np.eye(3), np.ones(2))
