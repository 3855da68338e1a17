"""Exponents: the slope is least squares with one intercept per seed, and its interval covers what it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hptransfer.core.statistics import log_slope

WIDTHS = (16, 32, 64, 128)


def dummy_regression(widths, values, confidence=0.95):
    """Brute force: ordinary least squares on log width and one dummy variable per seed."""
    seeds, count = values.shape
    x = np.tile(np.log(widths), seeds)
    dummies = np.kron(np.eye(seeds), np.ones((count, 1)))
    design, y = np.column_stack([x, dummies]), np.log(values).ravel()
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual, degrees = y - design @ solution, len(y) - design.shape[1]
    variance = residual @ residual / degrees * np.linalg.inv(design.T @ design)[0, 0]
    half = stats.t.ppf((1 + confidence) / 2, degrees) * np.sqrt(variance)
    return solution[0], solution[0] - half, solution[0] + half


@pytest.mark.parametrize(("seeds", "widths"), [(2, (8, 16, 64)), (3, WIDTHS), (5, (10, 20, 50, 300, 301))])
def test_equals_regression_with_dummy_variables(seeds, widths):
    values = np.exp(np.random.default_rng(seeds).normal(size=(seeds, len(widths))))
    found = log_slope(widths, values)
    np.testing.assert_allclose((found.value, found.low, found.high), dummy_regression(widths, values), rtol=1e-9)


def test_an_exact_power_law_has_its_exponent_and_no_width():
    values = np.array([[3.0], [0.01]]) * np.array(WIDTHS) ** -0.5
    found = log_slope(WIDTHS, values)
    np.testing.assert_allclose((found.value, found.low, found.high), -0.5, atol=1e-12)


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_covers_the_true_exponent_in_19_of_20_experiments(seeds):
    """Runs of one seed share an intercept (their data); 2000 experiments, so 95% within four binomial deviations."""
    draw, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        noise = draw.normal(scale=0.15, size=(seeds, 4)) + draw.normal(scale=0.5, size=(seeds, 1))
        found = log_slope(WIDTHS, np.exp(noise) * np.array(WIDTHS) ** 0.3)
        hits += found.low <= 0.3 <= found.high
    assert abs(hits / 2000 - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_a_bent_line_widens_the_interval():
    bent = 1 + 8 / np.array(WIDTHS)
    found = log_slope(WIDTHS, np.tile(bent, (3, 1)))
    assert found.high - found.low > 0.05
