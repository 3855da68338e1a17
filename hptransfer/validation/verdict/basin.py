"""The parabola through the losses near the lowest one: its vertex is the best learning rate.

Losses are compressed first (see smooth), so that a wall counts for little, and a diverged point for one as high as the
highest finite one. The reach is the least over which the parabola is seen to bend, or the widest: with much noise more
of the curve is needed. It is chosen once, on the means; every resample of the seeds is fitted over the same points. A
curve that is no parabola moves the vertex, by up to half an octave where one side is steep and the other flat, but at
every size alike: differences between sizes are what it is for (docs/limits.md).
"""

# pyright: strict
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hptransfer.validation.verdict.smooth import compressed, noise_of, scale_of

Array = NDArray[np.float64]
REACHES = (1.5, 2.5, 4.0)
"""Octaves to either side of the lowest point."""
BENDS = 3.0
"""Standard errors of the curvature from which on a reach suffices."""
HIGH = 2.0
"""Times the scale of compression, which is twice the noise at least: no noise alone lifts a point above this."""
MOST = 1.0
"""Octaves: how far from the lowest point the vertex may lie."""


@dataclass(frozen=True)
class Basin:
    """A parabola in log2 of the rate, fitted to compressed losses.

    near: indices of its points in the curve; x: their places relative to the lowest point's, `at` [near]. low, high:
    the bounds of the vertex relative to it. inverse: the coefficients of 1, x and x^2 from losses [3, near]. scale: of
    the compression. bend: the curvature in standard errors, inf where the seeds do not differ but in level, nan for one
    seed.
    """

    near: NDArray[np.intp]
    x: Array
    inverse: Array
    at: float
    low: float
    high: float
    scale: float
    bend: float

    @classmethod
    def of(cls, log2_lrs: Array, losses: Array) -> Basin | None:
        """From losses [points, seeds], inf = diverged; None with fewer than three points to go by."""
        means = losses.mean(axis=1)
        if np.isfinite(means).sum() < 2:
            return None
        fits = [fit for reach in REACHES if (fit := _within(log2_lrs, losses, means, reach)) is not None]
        return next((fit for fit in fits if not fit.bend < BENDS), fits[-1] if fits else None)

    def minimum(self, means: Array) -> tuple[float, float]:
        """(log2 of the rate, loss) where it is lowest for these means [points of the curve].

        Where it does not bend upwards, the lowest of its points.
        """
        y = means[self.near]
        lowest = float(y[np.isfinite(y)].min())
        level, slope, bend = self._coefficients(y)
        if bend <= 0:
            return self.at + float(self.x[np.argmin(y)]), lowest
        move = float(np.clip(-slope / (2 * bend), self.low, self.high))
        return self.at + move, lowest + self._opened(level + slope * move + bend * move * move)

    def _coefficients(self, y: Array) -> tuple[float, float, float]:
        level, slope, bend = self.inverse @ compressed(y, self.scale)
        return float(level), float(slope), float(bend)

    def _opened(self, z: float) -> float:
        """A compressed height as a loss again."""
        return self.scale * math.expm1(z / self.scale)


def _within(log2_lrs: Array, losses: Array, means: Array, reach: float) -> Basin | None:
    best = int(np.argmin(means))
    near = _near(log2_lrs, np.isfinite(means), best, reach)
    if len(near) < 3:
        return None
    x, at, scale = log2_lrs[near] - log2_lrs[best], float(log2_lrs[best]), scale_of(losses)
    ends = log2_lrs[max(best - 1, 0)] - at, log2_lrs[min(best + 1, len(means) - 1)] - at
    low, high = min(max(-MOST, x[0]), ends[0]), max(min(MOST, x[-1]), ends[1])
    if not np.isfinite(means[near[-1]]):
        high = min(high, float(x[-1] + x[-2]) / 2)  # no rate beyond halfway to one that diverged
    inverse = np.linalg.pinv(np.stack([np.ones_like(x), x, x * x], axis=1))
    return Basin(near, x, inverse, at, float(low), float(high), scale, _bend(inverse, losses[near], scale))


def _near(log2_lrs: Array, finite: NDArray[np.bool_], best: int, reach: float) -> NDArray[np.intp]:
    """The finite points within reach of the best one, and the first diverged one above them where it is near too."""
    index = np.flatnonzero(finite & (np.abs(log2_lrs - log2_lrs[best]) <= reach + 1e-9))
    above = np.flatnonzero(~finite & (log2_lrs > log2_lrs[index[-1]]))[:1]
    near_above = above[log2_lrs[above] - log2_lrs[index[-1]] <= reach + 1e-9]
    return np.concatenate([index, near_above])


def _bend(inverse: Array, losses: Array, scale: float) -> float:
    """The curvature over its standard error, the noise being what neither a point nor a seed explains.

    Noise grows with the loss: that of a point higher than noise alone may lift it is compressed as the loss itself is.
    """
    seeds = losses.shape[1]
    if seeds < 2:
        return math.nan
    means = losses.mean(axis=1)
    bend = float(inverse[2] @ compressed(means, scale))
    finite = means[np.isfinite(means)]
    left = 1 / (1 + np.clip((finite - finite.min()) / scale - HIGH, 0, None))
    error = math.sqrt(noise_of(losses[np.isfinite(means)], left) * float((inverse[2] ** 2).sum()))
    return bend / error if error > 0 else math.copysign(math.inf, bend)
