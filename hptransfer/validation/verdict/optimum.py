"""The optimal learning rate of one (scheme, size), in log2, with an interval.

The optimum is where the smooth curve through the mean losses is lowest (see smooth). Smoothing fills the basin in a
little, so the loss there is that of a parabola through the points within an octave of the best one. The interval joins
two variances. Seeds: bootstrap over seeds, the same resample at every learning rate (the seeds are paired), times
n/(n-1), for the optimum pooled over the sizes of a scheme, with Student's t for the degrees of freedom. Shape: half
the distance to the parabola's own minimum, and SHAPE_BIAS, what a smooth curve is off by between points an octave
apart. How far the estimate is biased and how often the interval covers is measured in tests/validation/test_optimum.py.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hptransfer.core.recipe import Axis
from hptransfer.core.seeding import numpy_generator
from hptransfer.core.statistics import t_quantile
from hptransfer.validation.records.results import Missing, Optimum
from hptransfer.validation.records.runs import Run
from hptransfer.validation.records.tally import NO_RUNS, Tally
from hptransfer.validation.verdict.smooth import Smoother

CONFIDENCE = 0.90
CLIFF = 6.0
RESAMPLES = 400
SHAPE_BIAS = 0.08
"""Octaves; see tests/validation/test_optimum.py."""
CHANCE = 0.002
"""Of the initial loss: what a run must gain to count as having learned anything."""
Array = np.ndarray


@dataclass(frozen=True)
class Curve:
    """Validation losses of one (scheme, size): ascending log2_lrs [points]; losses [points, seeds], inf = diverged.

    size: the width, or the depth where that is the axis. failed: log2_lrs [any] at which a run failed, which are no
    points. tally: how the runs ended. initial: the mean training loss before the first steps took effect, nan where it
    is not known.
    """

    scheme: str
    size: int
    log2_lrs: Array
    losses: Array
    axis: Axis = "width"
    failed: Array = field(default_factory=lambda: np.array([]))
    tally: Tally = NO_RUNS
    initial: float = math.nan

    @property
    def seeds(self) -> int:
        """How many seeds every point has."""
        return self.losses.shape[1]

    @property
    def means(self) -> Array:
        """Mean loss per point [points]; inf where any seed diverged."""
        return self.losses.mean(axis=1)


def curve_of(runs: Iterable[Run], *, scheme: str, size: int, seeds: Sequence[int], axis: Axis = "width") -> Curve:
    """The curve in a set of runs. Points at which a seed is missing or failed are left out; failed ones are counted."""
    here = [run for run in runs if (run.scheme, getattr(run, axis)) == (scheme, size) and run.seed in seeds]
    table: dict[float, dict[int, float]] = {}
    for run in here:
        if run.state != "failed":
            table.setdefault(run.lr, {})[run.seed] = math.inf if run.state != "complete" else run.val_loss
    whole = sorted(lr for lr, found in table.items() if set(seeds) <= set(found))
    losses = np.array([[table[lr][seed] for seed in seeds] for lr in whole], dtype=float)
    failed = sorted({run.lr for run in here if run.state == "failed"} - set(whole))
    points = np.log2(np.array(whole, dtype=float))
    return Curve(
        *(scheme, size, points, losses.reshape(len(whole), len(seeds)), axis),
        failed=np.log2(np.array(failed, dtype=float)),
        tally=Tally.of(here),
        initial=_initial(here),
    )


def _initial(runs: Sequence[Run]) -> float:
    """The first recorded training loss at the lowest rate, where the first steps change it least; nan without one."""
    known = [run for run in runs if run.curve]
    lowest = [run.curve[0][1] for run in known if run.lr == min(r.lr for r in known)]
    return math.fsum(lowest) / len(lowest) if lowest else math.nan


def best_point(x: Array, y: Array) -> tuple[float, float]:
    """(log2 lr, loss) of the lowest point; (nan, inf) where nothing is finite."""
    if not np.isfinite(y).any():
        return math.nan, math.inf
    return float(x[np.argmin(y)]), float(y.min())


def _best_place(x: Array, y: Array) -> float:
    return best_point(x, y)[0]


def parabola_minimum(x: Array, y: Array) -> tuple[float, float]:
    """(log2 lr, loss) of a parabola's minimum, through the points within an octave of the best one.

    Towards large rates a loss may rise like a cliff. Where the points above the best one rise CLIFF times more than
    those below, the cliff's are left out and one more octave below is taken; the minimum stays short of the cliff.
    """
    at, lowest = best_point(x, y)
    if not math.isfinite(at):
        return at, lowest
    best = int(np.argmin(y))
    chosen, low, high = _points(x, y, best)
    if len(chosen) < 3:
        return at, lowest
    dx, dy = x[chosen] - at, y[chosen] - lowest
    (c, b, a), *_ = np.linalg.lstsq(np.stack([np.ones_like(dx), dx, dx * dx], axis=1), dy, rcond=None)
    if a <= 0:
        return at, lowest
    move = float(np.clip(-b / (2 * a), low, high))
    return at + move, lowest + min(float(c + b * move + a * move * move), 0.0)


def _points(x: Array, y: Array, best: int) -> tuple[list[int], float, float]:
    """The points of the parabola, and the bounds of its minimum relative to the best point."""
    reach = max(1.0, float(np.median(np.diff(x)))) * 1.01 if len(x) > 1 else 1.0
    finite, index = np.isfinite(y), np.arange(len(x))
    near = finite & (np.abs(x - x[best]) <= reach)
    left, right = index[near & (index < best)], index[near & (index > best)]
    low, high = x[max(best - 1, 0)] - x[best], x[min(best + 1, len(x) - 1)] - x[best]
    below = _rise(y, left, best)
    if _rise(y, right, best) > CLIFF * below:
        right = right[y[right] - y[best] <= CLIFF * below]
        left = index[finite & (index < best) & (x >= x[best] - 2 * reach)]
        high /= 2
    return [*left.tolist(), best, *right.tolist()], float(low), float(high)


def _rise(y: Array, side: Array, best: int) -> float:
    """Mean rise above the best point; inf where a side has no finite point."""
    return float((y[side] - y[best]).mean()) if len(side) else math.inf


@functools.cache
def resamples(seeds: int) -> Array:
    """Indices of seeds [resamples, seeds]: every resample there is for up to 4 seeds, else RESAMPLES drawn ones."""
    if seeds <= 4:
        return np.array(list(itertools.product(range(seeds), repeat=seeds)))
    return numpy_generator(0).integers(seeds, size=(RESAMPLES, seeds))


@dataclass(frozen=True)
class Fit:
    """The minimum of a curve: log2_lr and loss, and the same per resample of the seeds.

    other_log2_lr: the parabola's minimum less log2_lr. other_loss: the best point's loss less `loss`.
    """

    curve: Curve
    log2_lr: float
    loss: float
    log2_lrs: Array
    losses: Array
    other_log2_lr: float
    other_loss: float

    @classmethod
    def of(cls, curve: Curve) -> Fit:
        """Fit a curve, and with the same smoothing all its resamples."""
        x, means = curve.log2_lrs, curve.means
        smoother = Smoother.of(x, curve.losses)
        place = smoother.minimum if smoother is not None else functools.partial(_best_place, x)
        drawn = [curve.losses[:, pick].mean(axis=1) for pick in resamples(curve.seeds)]
        log2_lr, (other, loss) = place(means), parabola_minimum(x, means)
        lrs, losses = np.array([place(y) for y in drawn]), np.array([parabola_minimum(x, y)[1] for y in drawn])
        return cls(curve, log2_lr, loss, lrs, losses, other - log2_lr, best_point(x, means)[1] - loss)

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


def half_width(variances: Sequence[float], seeds: int, *, times: float = 1.0, bias: float = 0.0) -> float:
    """Half of a CONFIDENCE interval whose variance is `times` the mean of `variances` (each from `seeds` seeds).

    bias: a possible systematic error, added as a variance. nan where no variance is known.
    """
    known = [v for v in variances if math.isfinite(v)]
    if not known:
        return math.nan
    return t_quantile(CONFIDENCE, len(known) * (seeds - 1)) * math.sqrt(times * sum(known) / len(known) + bias * bias)


def optima(fits: Sequence[Fit]) -> list[Optimum]:
    """The optimum of every fit; the noise between seeds is pooled over the sizes of each scheme."""
    return [_optimum(fit, [f for f in fits if f.curve.scheme == fit.curve.scheme]) for fit in fits]


def _optimum(fit: Fit, alike: Sequence[Fit]) -> Optimum:
    seeds, found = fit.curve.seeds, [f for f in alike if f.found]
    lr = half_width(
        [variance(f.log2_lrs, seeds) for f in found], seeds, bias=math.hypot(fit.other_log2_lr / 2, SHAPE_BIAS)
    )
    loss = half_width([variance(fit.losses, seeds)], seeds, bias=fit.other_loss / 2)
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
    )
