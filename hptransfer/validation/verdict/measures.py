"""The field's measures of a transfer, beside drift and regret: reported with intervals, not judged.

After the three of Kalra & Barkeshli 2026 (2605.21486: quality of the scaling law's fit, robustness to errors of the
extrapolation, asymptotic loss penalty of the parametrization) and the fast or slow transfer of Ghosh, Wu & Bietti 2025
(2512.22768: whether what a transferred rate loses vanishes faster than what size itself gains). Their full text was not
at hand: the formulas below are ours, written down where they stand.
"""

# pyright: strict
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from hptransfer.validation.records.results import Measures
from hptransfer.validation.records.runs import Run
from hptransfer.validation.verdict.optimum import Fit, half_width, variance

Array = NDArray[np.float64]
POWERS = np.linspace(0.1, 2.0, 39)
"""Exponents b of loss = limit + a size^-b that are tried."""
FEWEST = 3
"""Sizes that a line needs until anything is left over."""


def measures_of(fits: Mapping[str, Sequence[Fit]], runs: Iterable[Run]) -> tuple[Measures, ...]:
    """The measures of every scheme, from its fits by ascending size, and from the seconds that its runs took."""
    known, penalties = list(runs), _penalties(fits)
    return tuple(_measured(name, own, penalties.get(name, _UNKNOWN), known) for name, own in fits.items())


_UNKNOWN = (math.nan, math.nan)


def _measured(name: str, fits: Sequence[Fit], penalty: tuple[float, float], runs: Sequence[Run]) -> Measures:
    exponent, error = _law(fits)
    robustness, off = _robustness(fits)
    share, excess, half = _share(fits[0], fits[-1])
    faster = "fast" if excess + half < 0 else "slow" if excess - half > 0 else "unknown"
    return Measures(
        scheme=name,
        exponent=_known(exponent),
        fit_error=_known(error),
        robustness=_known(robustness),
        robustness_low=_known(robustness - off),
        robustness_high=_known(robustness + off),
        penalty=_known(penalty[0]),
        penalty_low=_known(penalty[0] - penalty[1]),
        penalty_high=_known(penalty[0] + penalty[1]),
        share=_known(share),
        speed=faster,
        saved=_known(_saved(name, fits, runs)),
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _law(fits: Sequence[Fit]) -> tuple[float, float]:
    """(exponent of the best rate in the size, rms distance of the optima from that power law in octaves).

    The distance is over the degrees of freedom left, so that it does not shrink with fewer sizes; nan below three.
    """
    inside = [fit for fit in fits if fit.settled]
    if len(inside) < FEWEST:
        return math.nan, math.nan
    x = np.log2([float(fit.curve.size) for fit in inside])
    y = np.array([fit.log2_lr for fit in inside])
    slope, level = np.polyfit(x, y, 1)
    rest = y - slope * x - level
    return float(slope), math.sqrt(float(rest @ rest) / (len(x) - 2))


def _robustness(fits: Sequence[Fit]) -> tuple[float, float]:
    """(kappa, half its interval): a rate off by an octave costs a share of the loss that goes as size^-kappa."""
    rows = [(fit.curve.size, _octave(fit)) for fit in fits if fit.settled]
    known = [(size, costs) for size, costs in rows if costs[0] > 0]
    if len(known) < FEWEST:
        return _UNKNOWN
    x = np.log([float(size) for size, _ in known])
    x = (x - x.mean()) / float(((x - x.mean()) ** 2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = -(x @ np.log(np.stack([costs for _, costs in known])))
    return float(slopes[0]), half_width([variance(slopes[1:], fits[0].curve.seeds)], fits[0].curve.seeds)


def _octave(fit: Fit) -> Array:
    """What a rate an octave off costs, of the loss, the mean of the sides that are known [1 + resamples]."""
    sides = [np.array([fit.height(fit.log2_lr + s), *fit.heights(fit.log2_lrs + s)]) for s in (-1.0, 1.0)]
    known = [side for side in sides if math.isfinite(side[0])]
    if not known or not fit.loss > 0:
        return np.full(1 + len(fit.losses), math.nan)
    return sum(known) / len(known) / np.array([fit.loss, *fit.losses])


def _penalties(fits: Mapping[str, Sequence[Fit]]) -> dict[str, tuple[float, float]]:
    """Scheme -> (limit of its tuned loss at infinite size over the lowest of all schemes' less 1, half its interval).

    Limits of loss = limit + a size^-b with one b for all schemes, that of least squares.
    """
    whole = {name: own for name, own in fits.items() if len(own) >= FEWEST and all(fit.found for fit in own)}
    if len(whole) < 2 or len(whole) < len(fits):
        return {}
    sizes = np.array([float(fit.curve.size) for fit in next(iter(whole.values()))])
    losses = np.stack([[[fit.loss, *fit.losses] for fit in own] for own in whole.values()])  # [schemes, sizes, 1 + R]
    designs = [np.stack([np.ones_like(sizes), (sizes / sizes[0]) ** -b], axis=1) for b in POWERS]
    rest = [_left(design, losses[:, :, 0].T) for design in designs]
    inverse = np.linalg.pinv(designs[int(np.argmin(rest))])
    limits = np.einsum("s,nsr->nr", inverse[0], losses)
    if not limits[:, 0].min() > 0:
        return {}
    over = limits / limits.min(axis=0) - 1
    seeds = next(iter(whole.values()))[0].curve.seeds
    halves = [half_width([variance(row[1:], seeds)], seeds) for row in over]
    return {name: (float(row[0]), half) for name, row, half in zip(whole, over, halves, strict=True)}


def _left(design: Array, losses: Array) -> float:
    """The sum of squares that least squares leaves of losses [sizes, schemes]."""
    return float(np.sum((losses - design @ (np.linalg.pinv(design) @ losses)) ** 2))


def _share(small: Fit, large: Fit) -> tuple[float, float, float]:
    """(cost over gain, cost less gain, half the interval of that) of the smallest size's rate at the largest.

    cost: what that rate loses there; gain: what the larger size wins, both tuned. nan where either is not known.
    """
    if not (small.settled and large.found):
        return math.nan, math.nan, math.nan
    cost = np.array([large.height(small.log2_lr), *large.heights(small.log2_lrs)])
    gain = np.array([small.loss - large.loss, *(small.losses - large.losses)])
    half = half_width([variance((cost - gain)[1:], small.curve.seeds)], small.curve.seeds)
    share = float(cost[0] / gain[0]) if gain[0] > 0 else math.nan
    return share, float(cost[0] - gain[0]), half


def _saved(name: str, fits: Sequence[Fit], runs: Sequence[Run]) -> float:
    """The part of a search's time that is saved where it is made at the smallest size in place of the largest."""
    axis = fits[0].curve.axis
    seconds = [
        [r.seconds for r in runs if (r.scheme, getattr(r, axis), r.state) == (name, size, "complete") and r.seconds > 0]
        for size in (fits[0].curve.size, fits[-1].curve.size)
    ]
    small, large = (fmean(own) if own else math.nan for own in seconds)
    return 1 - small / large
