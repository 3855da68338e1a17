"""The optimal learning rate of one (scheme, width), in log2, with an interval.

The mean loss over seeds is fitted by a parabola in log2(lr) through the points within one octave of the best one. A
loss is often far from a parabola: gentle towards small rates, a cliff towards large ones. So where the points on one
side rise CLIFF times more than those on the other, the cliff's are left out and the gentle side's next octave is
taken instead; the estimate then stays on the near side of the midpoint to the cliff.

The interval joins two variances. Seeds: bootstrap over seeds, the same resample at every learning rate (the seeds are
paired), times n/(n-1), pooled over the widths of a scheme, with Student's t for the pooled degrees of freedom.
Interpolation: half the distance to the minimum of an Akima spline through the same means, and SHAPE_BIAS, what a
parabola within an octave is off by on curves of other shapes; the latter cancels out of a drift between like curves.
How far the estimate is biased and how often the interval covers is measured in tests/validation/test_optimum.py.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.stats import t as student

from hptransfer.validation.results import Optimum
from hptransfer.validation.runs import Run

CONFIDENCE = 0.90
CLIFF = 6.0
RESAMPLES = 400
SHAPE_BIAS = 0.08
"""Octaves: root mean square over the curves of tests/validation/test_optimum.py."""
Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """Validation losses of one (scheme, width): ascending log2_lrs [points]; losses [points, seeds], inf = diverged."""

    scheme: str
    width: int
    log2_lrs: Array
    losses: Array

    @property
    def seeds(self) -> int:
        """How many seeds every point has."""
        return self.losses.shape[1]

    @property
    def means(self) -> Array:
        """Mean loss per point [points]; inf where any seed diverged."""
        return self.losses.mean(axis=1)


def curve_of(runs: Iterable[Run], *, scheme: str, width: int, seeds: Sequence[int]) -> Curve:
    """The curve in a set of runs. Points at which a seed is missing or failed are left out."""
    table: dict[float, dict[int, float]] = {}
    for run in runs:
        if (run.scheme, run.width) == (scheme, width) and run.state != "failed":
            table.setdefault(run.lr, {})[run.seed] = math.inf if run.state != "complete" else run.val_loss
    whole = sorted(lr for lr, found in table.items() if set(seeds) <= set(found))
    losses = np.array([[table[lr][seed] for seed in seeds] for lr in whole], dtype=float)
    return Curve(scheme, width, np.log2(np.array(whole, dtype=float)), losses.reshape(len(whole), len(seeds)))


def minimum(x: Array, y: Array) -> tuple[float, float]:
    """(log2 lr, loss) of the minimum of y [points] over ascending x; inf allowed; (nan, inf) if nothing is finite."""
    if not np.isfinite(y).any():
        return math.nan, math.inf
    best = int(np.argmin(y))
    chosen, low, high = _points(x, y, best)
    if len(chosen) < 3:
        return float(x[best]), float(y[best])
    dx, dy = x[chosen] - x[best], y[chosen] - y[best]
    (c, b, a), *_ = np.linalg.lstsq(np.stack([np.ones_like(dx), dx, dx * dx], axis=1), dy, rcond=None)
    if a <= 0:
        return float(x[best]), float(y[best])
    at = float(np.clip(-b / (2 * a), low, high))
    return float(x[best] + at), float(y[best] + min(c + b * at + a * at * at, 0.0))


def _points(x: Array, y: Array, best: int) -> tuple[list[int], float, float]:
    """The points to fit, and the bounds of the minimum relative to the best point."""
    reach = max(1.0, float(np.median(np.diff(x)))) * 1.01 if len(x) > 1 else 1.0
    finite = np.isfinite(y)
    near = finite & (np.abs(x - x[best]) <= reach)
    index = np.arange(len(x))
    left, right = index[near & (index < best)], index[near & (index > best)]
    low, high = x[max(best - 1, 0)] - x[best], x[min(best + 1, len(x) - 1)] - x[best]
    rise_left, rise_right = _rise(y, left, best), _rise(y, right, best)
    if rise_right > CLIFF * rise_left:
        right = right[y[right] - y[best] <= CLIFF * rise_left]
        left = index[finite & (index < best) & (x >= x[best] - 2 * reach)]
        high /= 2
    elif rise_left > CLIFF * rise_right:
        left = left[y[left] - y[best] <= CLIFF * rise_right]
        right = index[finite & (index > best) & (x <= x[best] + 2 * reach)]
        low /= 2
    return [*left.tolist(), best, *right.tolist()], float(low), float(high)


def _rise(y: Array, side: Array, best: int) -> float:
    """Mean rise above the best point; inf where a side has no finite point."""
    return float((y[side] - y[best]).mean()) if len(side) else math.inf


def spline_minimum(x: Array, y: Array) -> tuple[float, float]:
    """The second opinion: (log2 lr, loss) of the minimum of a modified Akima spline through the finite points."""
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    if len(x) < 3:
        return (float(x[np.argmin(y)]), float(y.min())) if len(x) else (math.nan, math.inf)
    grid = np.linspace(x[0], x[-1], 50 * len(x) + 1)
    values = Akima1DInterpolator(x, y, method="makima")(grid)
    return float(grid[np.argmin(values)]), float(values.min())


@functools.cache
def resamples(seeds: int) -> Array:
    """Indices of seeds [resamples, seeds]: every resample there is for up to 4 seeds, else RESAMPLES drawn ones."""
    if seeds <= 4:
        return np.array(list(itertools.product(range(seeds), repeat=seeds)))
    return np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))


@dataclass(frozen=True)
class Fit:
    """The minimum of a curve: log2_lr and loss; per resample of the seeds; and the spline's less the parabola's."""

    curve: Curve
    log2_lr: float
    loss: float
    log2_lrs: Array
    losses: Array
    spline_log2_lr: float
    spline_loss: float

    @classmethod
    def of(cls, curve: Curve) -> Fit:
        """Fit a curve and all its resamples."""
        x, means = curve.log2_lrs, curve.means
        log2_lr, loss = minimum(x, means)
        drawn = [minimum(x, curve.losses[:, pick].mean(axis=1)) for pick in resamples(curve.seeds)]
        lrs, losses = np.array(drawn).T
        other_lr, other_loss = spline_minimum(x, means)
        return cls(curve, log2_lr, loss, lrs, losses, other_lr - log2_lr, other_loss - loss)

    @property
    def found(self) -> bool:
        """Whether any point of the curve was finite."""
        return math.isfinite(self.log2_lr)

    @property
    def edge(self) -> int:
        """-1 or 1 where the best point is the first or last of the grid (-1 where all diverged), else 0."""
        if not self.found:
            return -1
        best = int(np.argmin(self.curve.means))
        return -1 if best == 0 else 1 if best == len(self.curve.log2_lrs) - 1 else 0


def variance(resampled: Array, seeds: int) -> float:
    """Variance over resamples of the seeds, times n/(n-1): unbiased for a mean. nan for one seed or no finite value."""
    finite = resampled[np.isfinite(resampled)]
    return float(finite.var()) * seeds / (seeds - 1) if seeds > 1 and len(finite) else math.nan


def half_width(variances: Sequence[float], seeds: int, *, times: float = 1.0, bias: float = 0.0) -> float:
    """Half of a CONFIDENCE interval whose variance is `times` the mean of `variances` (each from `seeds` seeds).

    bias: a possible systematic error, added as a variance. nan where no variance is known.
    """
    known = [v for v in variances if math.isfinite(v)]
    if not known:
        return math.nan
    quantile = float(student.ppf((1 + CONFIDENCE) / 2, len(known) * (seeds - 1)))
    return quantile * math.sqrt(times * sum(known) / len(known) + bias * bias)


def optima(fits: Sequence[Fit]) -> list[Optimum]:
    """The optimum of every fit; the noise between seeds is pooled over the widths of each scheme."""
    return [_optimum(fit, [f for f in fits if f.curve.scheme == fit.curve.scheme]) for fit in fits]


def _optimum(fit: Fit, alike: Sequence[Fit]) -> Optimum:
    seeds, found = fit.curve.seeds, [f for f in alike if f.found]
    lr = half_width(
        [variance(f.log2_lrs, seeds) for f in found], seeds, bias=math.hypot(fit.spline_log2_lr / 2, SHAPE_BIAS)
    )
    loss = half_width([variance(fit.losses, seeds)], seeds, bias=fit.spline_loss / 2)
    return Optimum(
        scheme=fit.curve.scheme,
        width=fit.curve.width,
        log2_lr=fit.log2_lr,
        low=fit.log2_lr - lr,
        high=fit.log2_lr + lr,
        loss=fit.loss,
        loss_low=fit.loss - loss,
        loss_high=fit.loss + loss,
        at_edge=fit.edge != 0,
        seeds=seeds,
    )
