"""Loss-curve collapse: does the run follow the curve of a smaller run of the same recipe?

Models of one family that are scaled well have one loss curve up to the normalisation of time by the run's length and of
the loss by its end value less the irreducible part (Qiu et al. 2507.02119; Bergsma et al. 2509.25087 for AdamW at one
timescale and tokens per parameter). End value and irreducible part of a run that is not over are not known, but say
only that

    L(x) = a + b L_small(x),     x = step / steps,

with b > 0. So a run that collapses lets a and b be fitted to the part it has made, and what is left over is noise;
and a larger one lies no higher than the smaller one at equal x. Either is an alarm where it fails at several looks in
a row.
"""

# pyright: strict
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hptransfer.core.errors import UsageError
from hptransfer.core.statistics import regress
from hptransfer.monitoring.readings import Monitored

Array = NDArray[np.float64]
WINDOWS = 20
"""Windows of equal length that a run is cut into; there is a look at the end of each."""
SKIPPED = 2
"""First windows left out: warm-up and the fall from the initial loss."""
FEWEST = 3
"""Windows behind those that a look needs: a line through two fits everything."""
SHAPE, LEVEL = 0.05, 0.02
"""How far a healthy run may be off the line, and above the smaller one, as a share of the smaller one's fall."""
SIGMAS = 3.0
"""Standard errors that either may have on top."""
IN_A_ROW = 2
"""Looks in a row that must say so."""


@dataclass(frozen=True)
class LossCurve:
    """progress: (m,), fraction of the run done, rising within (0, 1]; losses: (m,), mean loss since the point before.

    Raises UsageError where the two differ in length or the progress does not rise within (0, 1].
    """

    progress: tuple[float, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        p = self.progress
        rises = all(a < b for a, b in pairwise(p))
        if len(p) != len(self.losses) or not (rises and (not p or (p[0] > 0 and p[-1] <= 1 + 1e-9))):
            raise UsageError(
                f"LossCurve: {len(p)} fractions and {len(self.losses)} losses; the fractions must rise within (0, 1]."
            )

    @classmethod
    def of_steps(cls, losses: Sequence[float], *, steps: int | None = None) -> LossCurve:
        """The curve of losses step by step. steps: of the whole run, default as many as there are losses."""
        total = steps or len(losses)
        return cls(tuple((k + 1) / total for k in range(len(losses))), tuple(float(v) for v in losses))

    def windows(self) -> tuple[Array, Array]:
        """(means, standard errors) of the windows that are over, (k,) each.

        The error is that of the scatter around a line within the window; nan where there are under three points.
        """
        progress, losses = np.asarray(self.progress), np.asarray(self.losses)
        complete = math.floor(float(progress[-1]) * WINDOWS + 1e-9) if len(progress) else 0
        rows = [_mean_and_error(progress, losses, k) for k in range(complete)]
        means, errors = zip(*rows, strict=True) if rows else ((), ())
        return np.array(means, dtype=np.float64), np.array(errors, dtype=np.float64)


@dataclass(frozen=True)
class Look:
    """A run beside its reference at the end of a window.

    progress: fraction of the run; slope, offset: b and a of the fit; off: the largest distance from the fit, above: how
    much higher than the reference the last windows are; both as a share of the reference's fall so far. off_limit,
    above_limit: what a healthy run may have.
    """

    progress: float
    slope: float
    offset: float
    off: float
    off_limit: float
    above: float
    above_limit: float

    @property
    def verdict(self) -> str:
        """What is wrong, in words; "" where nothing is."""
        if not math.isfinite(self.above):
            return "its loss is not finite"
        if self.above > self.above_limit:
            return f"the loss lies {self.above:.1%} of the reference's fall above the reference"
        if self.slope <= 0 or self.off > self.off_limit:
            return f"the curve has another shape than the reference's, by {self.off:.1%} of its fall"
        return ""


def collapse(run: LossCurve, reference: LossCurve) -> tuple[Look, ...]:
    """A look at the end of every window that the run has made, from the first that can tell something.

    Raises UsageError where the reference is not a whole run.
    """
    small, small_errors = reference.windows()
    if len(small) < WINDOWS:
        raise UsageError(
            f"The reference has {len(small)} of {WINDOWS} parts of its run. Give a finished run, of at least "
            f"{WINDOWS} points."
        )
    large, large_errors = run.windows()
    return tuple(
        _look(large[:k], large_errors[:k], small[:k], small_errors[:k]) for k in range(SKIPPED + FEWEST, len(large) + 1)
    )


def alarm(looks: Sequence[Look]) -> tuple[float, str] | None:
    """(progress, words) of the first alarm: the same fault at IN_A_ROW looks; None where there is none."""
    for k in range(IN_A_ROW - 1, len(looks)):
        said = [look.verdict for look in looks[k - IN_A_ROW + 1 : k + 1]]
        if all(said):
            return looks[k].progress, said[-1]
    return None


class Watch:
    """Feeds a run's losses to `collapse` as they come. Raises UsageError for a reference that is not a whole run."""

    def __init__(self, reference: LossCurve) -> None:
        collapse(LossCurve((), ()), reference)
        self.reference = reference
        self._progress: list[float] = []
        self._losses: list[float] = []

    def __call__(self, progress: float, loss: float) -> str:
        """Take the next point; the alarm in words where one begins with it, else ""."""
        before = math.floor(self._progress[-1] * WINDOWS + 1e-9) if self._progress else 0
        self._progress.append(min(progress, 1.0))
        self._losses.append(loss)
        if math.floor(progress * WINDOWS + 1e-9) == before:
            return ""
        raised = alarm(collapse(LossCurve(tuple(self._progress), tuple(self._losses)), self.reference))
        return f"no collapse on the reference: {raised[1]}" if raised else ""


def curve_of(run: Monitored) -> LossCurve:
    """The loss curve of a monitored run, over its planned length."""
    rows = [(r.step / run.steps, r.loss) for r in run.readings if r.loss is not None and r.step <= run.steps]
    return LossCurve(tuple(progress for progress, _ in rows), tuple(loss for _, loss in rows))


def _mean_and_error(progress: Array, losses: Array, window: int) -> tuple[float, float]:
    inside = (progress > window / WINDOWS + 1e-9) & (progress <= (window + 1) / WINDOWS + 1e-9)
    x, y = progress[inside], losses[inside]
    if not len(y):
        return math.nan, math.nan
    if len(y) < 3 or not np.isfinite(y).all():
        return float(y.mean()), math.nan
    line = regress(np.stack([np.ones_like(x), x - x.mean()], axis=1), y)
    return float(y.mean()), line.residual / math.sqrt(len(y))


def _look(large: Array, large_errors: Array, small: Array, small_errors: Array) -> Look:
    """The fit of one curve on the other over the windows behind the skipped ones."""
    progress, fall = len(large) / WINDOWS, float(small[0] - small.min())
    kept = slice(SKIPPED, None)
    y, x = large[kept], small[kept]
    known = np.isfinite(y)
    if not known.all() or not fall > 0:
        return Look(progress, math.nan, math.nan, math.inf, 0.0, math.inf if not known.all() else 0.0, 0.0)
    noise = np.sqrt(np.nan_to_num(large_errors[kept]) ** 2 + np.nan_to_num(small_errors[kept]) ** 2)
    weights = 1 / np.sqrt(noise**2 + (SHAPE * fall / SIGMAS) ** 2)
    slope, offset = (float(c) for c in np.polyfit(x, y, 1, w=weights))
    off = np.abs(y - (offset + slope * x)) / fall
    worst = int(np.argmax(off - SIGMAS * noise / fall))
    above = float((y - x)[-FEWEST:].mean()) / fall
    reach = SIGMAS * float(np.sqrt((noise[-FEWEST:] ** 2).sum())) / FEWEST / fall
    return Look(
        progress, slope, offset, float(off[worst]), SHAPE + SIGMAS * float(noise[worst]) / fall, above, LEVEL + reach
    )
