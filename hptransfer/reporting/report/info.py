"""What each figure shows, as plain numbers: pure functions of a TransferResult, tested without drawing anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hptransfer.core.training.recipe import Axis
from hptransfer.reporting.numerals import raised
from hptransfer.validation.records.results import LossGap, Optimum, TransferResult
from hptransfer.validation.records.runs import Run
from hptransfer.validation.settings.setting import RATE, Setting
from hptransfer.validation.settings.vector import value_of


class Point(NamedTuple):
    """The runs of one (scheme, size, learning rate): the losses of the complete ones, their mean, and the others."""

    log2_lr: float
    losses: tuple[float, ...]
    mean: float
    diverged: int
    pruned: int = 0
    failed: int = 0


class Curve(NamedTuple):
    """Loss against learning rate at one size. place: its index among the sizes; optimum: None where not found."""

    size: int
    place: int
    points: tuple[Point, ...]
    optimum: Optimum | None


class CurvesInfo(NamedTuple):
    """One panel: a scheme's curves, small to large, what they are sizes of, and what is swept."""

    scheme: str
    curves: tuple[Curve, ...]
    axis: Axis
    setting: Setting = RATE


class LossAxis(NamedTuple):
    """The loss axis that all panels share. log: drawn on a log scale."""

    low: float
    high: float
    log: bool


class OptimaInfo(NamedTuple):
    """A scheme's optimum (log2 of the learning rate, with interval) against size; only sizes where it was found."""

    scheme: str
    optima: tuple[Optimum, ...]


class GapInfo(NamedTuple):
    """Tuned loss of the scheme less tuned SP's per size; worst: the largest excess over its tolerance, or None."""

    gaps: tuple[LossGap, ...]
    worst: LossGap | None


def schemes_of(result: TransferResult) -> tuple[str, ...]:
    """The control first, then the checked scheme: the order of the panels."""
    return tuple(dict.fromkeys(s for s in (result.against, *result.schemes) if s))


def curves_info(result: TransferResult, scheme: str) -> CurvesInfo:
    """The curves of one scheme over all sizes of the result."""
    found = {o.size: o for o in result.optima if o.scheme == scheme and math.isfinite(o.log2_lr)}
    curves = [
        Curve(size, index, _points(result, scheme, size), found.get(size)) for index, size in enumerate(result.sizes)
    ]
    shown = tuple(c for c in curves if c.points)
    return CurvesInfo(scheme, shown, result.axis, result.swept)


def _points(result: TransferResult, scheme: str, size: int) -> tuple[Point, ...]:
    by_lr: dict[float, list[Run]] = {}
    for run in result.runs:
        if (run.scheme, getattr(run, result.axis)) == (scheme, size):
            by_lr.setdefault(value_of(run, result.swept), []).append(run)
    return tuple(_point(lr, runs) for lr, runs in sorted(by_lr.items()))


def _point(lr: float, runs: Sequence[Run]) -> Point:
    finite = tuple(run.val_loss for run in runs if run.state == "complete" and math.isfinite(run.val_loss))
    mean = sum(finite) / len(finite) if finite else math.inf
    count = Counter(run.state for run in runs)
    lost = count["complete"] - len(finite)
    return Point(math.log2(lr), finite, mean, count["diverged"] + lost, count["pruned"], count["failed"])


def loss_axis(panels: Iterable[CurvesInfo], *, octaves_above: float = 3.0) -> LossAxis:
    """Limits that show every loss, but no more than 2^octaves_above times the lowest (what lies above says little).

    Logarithmic where the losses span more than a factor of 2.5 and are positive.
    """
    losses = [loss for panel in panels for curve in panel.curves for point in curve.points for loss in point.losses]
    if not losses:
        return LossAxis(0.0, 1.0, False)
    low, high = min(losses), max(losses)
    if low <= 0:
        margin = 0.06 * (high - low or 1.0)
        return LossAxis(low - margin, high + 2 * margin, False)
    high = min(high, low * 2**octaves_above)
    if high / low > 2.5:
        stretch = (high / low) ** 0.06
        return LossAxis(low / stretch, high * stretch**2, True)
    margin = 0.06 * (high - low or low)
    return LossAxis(low - margin, high + 2 * margin, False)


def optima_info(result: TransferResult) -> tuple[OptimaInfo, ...]:
    """Optimum against size, the control first."""
    found = [
        OptimaInfo(s, tuple(o for o in result.optima if o.scheme == s and math.isfinite(o.log2_lr)))
        for s in schemes_of(result)
    ]
    return tuple(info for info in found if info.optima)


def gap_info(result: TransferResult) -> GapInfo:
    """Loss gaps with a finite value, and the one that exceeds its tolerance most."""
    gaps = tuple(g for g in result.loss_gaps if math.isfinite(g.mup_minus_sp))
    over = [g for g in gaps if g.worse]
    return GapInfo(gaps, max(over, key=lambda g: g.mup_minus_sp - g.tolerance, default=None))


def superscript(exponent: float) -> str:
    """2 to the exponent as text: "2⁻⁷" for whole exponents, else the number in decimal notation."""
    if exponent != round(exponent):
        return f"{2.0**exponent:.3g}"
    return f"2{raised(round(exponent))}"
