"""Least squares with Student-t intervals, and exponents: slopes in log-log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Regression:
    """y = design @ coefficients + noise, by ordinary least squares.

    coefficients: (p,); covariance: (p, p), over residual^2; residual: standard deviation of the noise; freedom: points
    less coefficients.
    """

    coefficients: Array
    covariance: Array
    residual: float
    freedom: int

    def reach(self, row: ArrayLike, *, level: float, new: bool = False) -> float:
        """Half of the t-interval of row @ coefficients; new: of a new observation there, its own noise included."""
        x = np.asarray(row, dtype=np.float64)
        return t_quantile(level, self.freedom) * self.residual * math.sqrt(new + float(x @ self.covariance @ x))


def regress(design: ArrayLike, y: ArrayLike, *, absorbed: int = 0) -> Regression:
    """design: (points, p) of full rank, y: (points,), more of them than p.

    absorbed: coefficients that were taken out of both before, as the mean of each block is.
    """
    x, target = np.asarray(design, dtype=np.float64), np.asarray(y, dtype=np.float64)
    solution = np.linalg.lstsq(x, target, rcond=None)[0]
    freedom = len(target) - x.shape[1] - absorbed
    residual = math.sqrt(float(np.sum((target - x @ solution) ** 2)) / freedom)
    return Regression(solution, np.linalg.inv(x.T @ x), residual, freedom)


def t_quantile(level: float, freedom: float) -> float:
    """Half of the central interval of Student's t that holds `level`."""
    from scipy.special import stdtrit  # half a second to import, for which planning needs no wait

    return float(stdtrit(freedom, (1 + level) / 2))


@dataclass(frozen=True)
class Slope:
    """d log(quantity) / d log(width), with its confidence interval."""

    value: float
    low: float
    high: float


def log_slope(widths: Sequence[int], values: Array, *, confidence: float = CONFIDENCE) -> Slope:
    """The common slope of log(values) on log(width), one intercept per seed.

    values: [seeds, widths], all positive. A seed is a block: its runs share their data, so its intercept is its own.
    The interval is Student's t on the residuals, with seeds (widths - 1) - 1 degrees of freedom; it covers both the
    scatter of the runs and a bend of the curve. Needs at least 3 widths, or 2 widths and 2 seeds. Checked against least
    squares with one dummy variable per seed, and by its coverage on simulated runs, in tests.
    """
    logs, x = np.log(values), np.log(np.asarray(widths, dtype=np.float64))
    x, y = np.tile(x - x.mean(), len(logs)), (logs - logs.mean(axis=1, keepdims=True)).ravel()
    line = regress(x[:, None], y, absorbed=len(logs))
    slope, half = float(line.coefficients[0]), line.reach([1.0], level=confidence)
    return Slope(slope, slope - half, slope + half)


def power(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent b of y ~ x^b through at least two distinct points, all positive."""
    from scipy import stats  # seconds to import, for which planning needs no wait

    return float(stats.linregress(np.log(x), np.log(y)).slope)  # type: ignore[attr-defined]
