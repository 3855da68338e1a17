"""The optimal learning rate of one (scheme, size), in log2, with an interval.

The optimum is the vertex of the basin (see basin), and so is the loss there. The interval joins two parts. Seeds: the
variance of a bootstrap over them, the same resample at every learning rate (the seeds are paired), times n/(n-1), for
the optimum pooled over the sizes of a scheme, with Student's t for the degrees of freedom. The grid's own: between two
rates that were run the optimum may lie anywhere, which is a standard deviation of their distance / sqrt(12). How often
the intervals cover is measured by scripts/bench_verdict.py.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from hptransfer.core.statistics import t_quantile
from hptransfer.core.training.recipe import Axis
from hptransfer.core.training.seeding import numpy_generator
from hptransfer.validation.records.results import Missing, Optimum
from hptransfer.validation.records.runs import Run
from hptransfer.validation.records.tally import NO_RUNS, Tally
from hptransfer.validation.settings.setting import RATE, Setting
from hptransfer.validation.settings.vector import value_of
from hptransfer.validation.verdict.basin import Basin
from hptransfer.validation.verdict.smooth import Smoother

CONFIDENCE = 0.90
NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Half of the interval of a normal error, in standard deviations."""
APART = 0.3
"""Octaves between two rates of a grid, at least."""
RESAMPLES = 400
BAND = 0.01
"""Of the best loss: rates that cost no more belong to the band."""
CHANCE = 0.002
"""Of the initial loss: what a run must gain to count as having learned anything."""
Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """Validation losses of one (scheme, size): ascending log2_lrs [points]; losses [points, seeds], inf = diverged.

    size: the width, or the depth where that is the axis. setting: what is swept, its values in log2_lrs. failed:
    log2_lrs [any] at which a run failed, which are no points. tally: how the runs ended. initial: the mean training
    loss before the first steps took effect, nan where it is not known.
    """

    scheme: str
    size: int
    log2_lrs: Array
    losses: Array
    axis: Axis = "width"
    failed: Array = field(default_factory=lambda: np.array([]))
    tally: Tally = NO_RUNS
    initial: float = math.nan
    setting: Setting = RATE

    @property
    def seeds(self) -> int:
        """How many seeds every point has."""
        return self.losses.shape[1]

    @property
    def means(self) -> Array:
        """Mean loss per point [points]; inf where any seed diverged."""
        return self.losses.mean(axis=1)


def curve_of(
    runs: Iterable[Run], *, scheme: str, size: int, seeds: Sequence[int], axis: Axis = "width", setting: Setting = RATE
) -> Curve:
    """The curve in a set of runs, which differ in seed and setting alone.

    Points at which a seed is missing or failed are left out; failed ones are counted.
    """
    here = [run for run in runs if (run.scheme, getattr(run, axis) or 0) == (scheme, size) and run.seed in seeds]
    table: dict[float, dict[int, float]] = {}
    for run in here:
        if run.state != "failed":
            loss = run.val_loss if run.state == "complete" else math.inf
            table.setdefault(value_of(run, setting), {})[run.seed] = loss
    whole = sorted(lr for lr, found in table.items() if set(seeds) <= set(found))
    losses = np.array([[table[lr][seed] for seed in seeds] for lr in whole], dtype=float)
    failed = sorted({value_of(run, setting) for run in here if run.state == "failed"} - set(whole))
    points = np.log2(np.array(whole, dtype=float))
    return Curve(
        *(scheme, size, points, losses.reshape(len(whole), len(seeds)), axis),
        failed=np.log2(np.array(failed, dtype=float)),
        tally=Tally.of(here),
        initial=_initial(here, setting),
        setting=setting,
    )


def _initial(runs: Sequence[Run], setting: Setting) -> float:
    """The first recorded training loss at the lowest value, where the first steps change it least; nan without one."""
    known = [run for run in runs if run.curve]
    least = min((value_of(run, setting) for run in known), default=math.nan)
    lowest = [run.curve[0][1] for run in known if value_of(run, setting) == least]
    return math.fsum(lowest) / len(lowest) if lowest else math.nan


def best_point(x: Array, y: Array) -> tuple[float, float]:
    """(log2 lr, loss) of the lowest point; (nan, inf) where nothing is finite."""
    if not np.isfinite(y).any():
        return math.nan, math.inf
    return float(x[np.argmin(y)]), float(y.min())


@functools.cache
def resamples(seeds: int) -> Array:
    """Indices of seeds [resamples, seeds]: every resample there is for up to 4 seeds, else RESAMPLES drawn ones."""
    if seeds <= 4:
        return np.array(list(itertools.product(range(seeds), repeat=seeds)))
    return numpy_generator(0).integers(seeds, size=(RESAMPLES, seeds))


@dataclass(frozen=True)
class Fit:
    """The minimum of a curve: log2_lr and loss, and the same per resample of the seeds [resamples].

    basin, smoother: the parabola near it and the smooth curve through all points; None with fewer than three.
    """

    curve: Curve
    log2_lr: float
    loss: float
    log2_lrs: Array
    losses: Array
    basin: Basin | None = None
    smoother: Smoother | None = None

    @classmethod
    def of(cls, curve: Curve) -> Fit:
        """Fit a curve, and in the same way all its resamples."""
        x, means = curve.log2_lrs, curve.means
        basin, smoother = Basin.of(x, curve.losses), Smoother.of(x, curve.losses)
        place = basin.minimum if basin is not None else functools.partial(best_point, x)
        drawn = np.array([place(y) for y in _drawn(curve)]).reshape(-1, 2)
        return cls(curve, *place(means), drawn[:, 0], drawn[:, 1], basin, smoother)

    def height(self, log2_lr: float) -> float:
        """The smooth curve at a rate above its own lowest value, in units of the loss; nan outside what was run."""
        return self.smoother.height_at(self.curve.means, log2_lr) if self.smoother is not None else math.nan

    def heights(self, log2_lrs: Array) -> Array:
        """The same per resample of the seeds, each at its own rate [resamples]."""
        smoother = self.smoother
        if smoother is None:
            return np.full(len(log2_lrs), math.nan)
        drawn = zip(_drawn(self.curve), log2_lrs, strict=True)
        return np.array([smoother.height_at(means, float(log2_lr)) for means, log2_lr in drawn])

    @property
    def grid_error(self) -> float:
        """Standard deviation of an optimum that lies anywhere between the rates that were run: spacing / sqrt(12).

        The spacing is the mean distance of the nearest rates on either side that are at least APART away: a rate that
        was run beside another, the transferred one say, makes the grid no finer.
        """
        x = self.curve.log2_lrs
        if not self.found or len(x) < 2:
            return math.nan
        away = np.abs(x - x[np.argmin(self.curve.means)])
        side = np.sign(x - x[np.argmin(self.curve.means)])
        beside = [away[(side == s) & (away >= APART)].min(initial=math.inf) for s in (-1, 1)]
        known = [float(distance) for distance in beside if math.isfinite(distance)]
        return sum(known) / len(known) / math.sqrt(12) if known else math.nan

    @property
    def shape_error(self) -> float:
        """How far the basin's vertex and the smooth curve's lowest place lie apart, in octaves."""
        return abs(self.smoother.minimum(self.curve.means) - self.log2_lr) if self.smoother is not None else 0.0

    @property
    def band(self) -> tuple[float, float]:
        """Rates about the optimum that cost at most BAND of its loss by the smooth curve, in log2 (low, high)."""
        if self.smoother is None:
            return self.log2_lr, self.log2_lr
        at, heights = self.smoother.at, self.smoother.heights(self.curve.means)
        middle = int(np.argmin(heights))
        dear = np.flatnonzero(heights > BAND * abs(self.loss))
        low, high = dear[dear < middle], dear[dear > middle]
        first = low[-1] + 1 if len(low) else 0
        last = high[0] - 1 if len(high) else len(at) - 1
        return float(at[first]), float(at[last])

    @property
    def found(self) -> bool:
        """Whether any point of the curve was finite."""
        return math.isfinite(self.log2_lr)

    @property
    def missing(self) -> Missing:
        """Why there is no optimum; runs that failed might have had one, so they come first."""
        if self.found:
            return ""
        if len(self.curve.failed):
            return "failed"
        tally = self.curve.tally
        if len(self.curve.log2_lrs) == 0 and not 0 < tally.diverged == tally.total:  # a search may stop at one seed
            return "not run"
        return "pruned" if self.curve.tally.pruned else "diverged"

    @property
    def blocked(self) -> bool:
        """Whether a run failed at the rate tried next to the best one, on either side: the optimum may lie there."""
        if not self.found or len(self.curve.failed) == 0:
            return False
        best = float(self.curve.log2_lrs[np.argmin(self.curve.means)])
        tried = sorted([*self.curve.log2_lrs.tolist(), *self.curve.failed.tolist()])
        place = tried.index(best)
        return bool(set(tried[max(place - 1, 0) : place + 2]) & set(self.curve.failed.tolist()))

    @property
    def settled(self) -> bool:
        """Whether the optimum lies between rates that were measured."""
        return self.found and self.edge == 0 and not self.blocked

    @property
    def at_chance(self) -> bool:
        """Whether the best loss is no lower than the training loss was before the first steps: nothing was learned."""
        initial = self.curve.initial
        return self.found and math.isfinite(initial) and self.loss >= initial - CHANCE * abs(initial)

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


def half_width(variances: Sequence[float], seeds: int, *, times: float = 1.0, error: float = 0.0) -> float:
    """Half of a CONFIDENCE interval: of seeds, whose variance is `times` the mean of `variances`, and of an error.

    variances: each from `seeds` seeds, so that Student's t has seeds - 1 degrees of freedom for each. error: standard
    deviation of what no seed shows. nan where no variance is known.
    """
    known = [v for v in variances if math.isfinite(v)]
    if not known:
        return math.nan
    noise = t_quantile(CONFIDENCE, len(known) * (seeds - 1)) * math.sqrt(times * sum(known) / len(known))
    return math.hypot(noise, NORMAL * error)


def strictness(tests: int, freedom: int) -> float:
    """The quantile that keeps one-sided errors of so many tests together at 5%, relative to that of one test."""
    if tests < 1 or freedom < 1:
        return 1.0
    one = (1 + CONFIDENCE) / 2
    return t_quantile(1 - 2 * (1 - one) / tests, freedom) / t_quantile(CONFIDENCE, freedom)


def optima(fits: Sequence[Fit]) -> list[Optimum]:
    """The optimum of every fit; the noise between seeds is pooled over the sizes of each scheme."""
    return [_optimum(fit, [f for f in fits if f.curve.scheme == fit.curve.scheme]) for fit in fits]


def _optimum(fit: Fit, alike: Sequence[Fit]) -> Optimum:
    seeds, known = fit.curve.seeds, [f for f in alike if f.found]
    noise, error = [variance(f.log2_lrs, seeds) for f in known], math.hypot(fit.grid_error, fit.shape_error)
    lr, loss = half_width(noise, seeds, error=error), half_width([variance(fit.losses, seeds)], seeds)
    return Optimum(
        scheme=fit.curve.scheme,
        size=fit.curve.size,
        log2_lr=fit.log2_lr,
        low=fit.log2_lr - lr,
        high=fit.log2_lr + lr,
        loss=fit.loss,
        loss_low=fit.loss - loss,
        loss_high=fit.loss + loss,
        at_edge=fit.edge != 0,
        seeds=seeds,
        missing=fit.missing,
        blocked=fit.blocked,
        tally=fit.curve.tally,
        band=fit.band if fit.found else None,
    )


def _drawn(curve: Curve) -> Iterable[Array]:
    """The means [points] of every resample of the seeds."""
    return (curve.losses[:, pick].mean(axis=1) for pick in resamples(curve.seeds))
