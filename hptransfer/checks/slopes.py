"""The exponent with which a quantity grows with width: least squares in log-log, with an interval over the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Slope:
    """d log(quantity) / d log(width), with its confidence interval."""

    value: float
    low: float
    high: float


def log_slope(widths: Sequence[int], values: NDArray[np.float64], *, confidence: float = CONFIDENCE) -> Slope:
    """The common slope of log(values) on log(width), one intercept per seed.

    values: [seeds, widths], all positive. A seed is a block: its runs share their data, so its intercept is its own.
    The interval is Student's t on the residuals, with seeds (widths - 1) - 1 degrees of freedom; it covers both the
    scatter of the runs and a bend of the curve. Every seed has all widths, so the slope equals the mean of the seeds'.
    Needs at least 3 widths, or 2 widths and 2 seeds. Checked against ordinary least squares with one
    dummy variable per seed, and by its coverage on simulated runs, in tests.
    """
    logs, x = np.log(values), np.log(np.asarray(widths, dtype=np.float64))
    x = x - x.mean()
    y = logs - logs.mean(axis=1, keepdims=True)
    seeds, spread = len(y), float(x @ x)
    slope = float((y @ x).mean()) / spread
    degrees = seeds * (len(x) - 1) - 1
    variance = float(((y - slope * x) ** 2).sum()) / degrees
    half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * math.sqrt(variance / (seeds * spread))
    return Slope(slope, slope - half, slope + half)
