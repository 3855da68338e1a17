"""Comparisons between fitted curves: drift, regret, loss against the control, and whether larger is better.

All of them pair the seeds: two runs of one seed saw the same data, so their difference has less noise than either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hptransfer.validation.records.results import Drift, LossGap, Regret, SizePair
from hptransfer.validation.verdict.optimum import NORMAL, Curve, Fit, half_width, strictness, variance

SHIFT = 1.5
"""In tolerances: the shift of a rate whose cost a regret must be known to better than."""


def drift_between(small: Fit, large: Fit, alike: Sequence[Fit], *, tests: int = 1) -> Drift:
    """How far the optimum moved from one size to another, in octaves.

    The noise of one optimum is pooled over all sizes of the scheme (`alike`); a difference has twice its variance,
    the sizes' weights being drawn independently, and the grid's error of both. tests: how many such intervals are read
    at once, whose errors share the 5% to a side. nan where either size has no optimum.
    """
    seeds = small.curve.seeds
    octaves = large.log2_lr - small.log2_lr
    noise = [v for fit in alike if fit.found and math.isfinite(v := variance(fit.log2_lrs, seeds))]
    half = half_width(noise, seeds, times=2.0, error=math.hypot(small.grid_error, large.grid_error))
    half *= strictness(tests, len(noise) * (seeds - 1))
    return Drift(small.curve.scheme, octaves, octaves - half, octaves + half)


def transferred_lr(small: Fit) -> float | None:
    """The learning rate a user would carry over: the small model's optimum, to 4 digits. None where it has none."""
    return float(f"{2.0**small.log2_lr:.4g}") if small.settled else None


def regret_of(small: Fit, large: Fit, *, lr: float, tolerance: float) -> Regret:
    """What the transferred learning rate costs at the large model: one fitted curve, read at that rate and at its best.

    The interval is that of the cost of each resample's own transferred rate, which the small model's noise moves too,
    and of rates that are off by the grid's error. nan where the rate lies outside what was run there, inf where every
    run with it diverged.
    """
    scheme, seeds, at = large.curve.scheme, large.curve.seeds, math.log2(lr)
    shifted = [large.height(large.log2_lr + side * SHIFT * tolerance) for side in (-1, 1)]
    shift = max((height for height in shifted if math.isfinite(height)), default=None)
    if _diverges(large, at):
        return Regret(scheme, math.inf, math.inf, math.inf, lr, shift)
    loss = large.height(at)
    if not math.isfinite(loss):
        return Regret(scheme, math.nan, math.nan, math.nan, lr, shift)
    off = math.hypot(small.grid_error, large.grid_error)
    beside = [h - loss for s in (-1, 1) if math.isfinite(h := large.height(at + s * off))]
    noise = variance(large.heights(at + small.log2_lrs - small.log2_lr), seeds)
    half = half_width([noise], seeds, error=max((abs(h) for h in beside), default=0.0) / NORMAL)
    return Regret(scheme, loss, loss - half, loss + half, lr, shift)


def _diverges(fit: Fit, log2_lr: float) -> bool:
    """Whether runs with this rate diverged, or with one below it above which every one did."""
    gone = fit.curve.log2_lrs[~np.isfinite(fit.curve.means) & (fit.curve.log2_lrs > fit.log2_lr)]
    return len(gone) > 0 and log2_lr >= float(gone[0]) - 1e-9


def loss_gaps(scheme: Sequence[Fit], control: Sequence[Fit], *, base_size: int | None) -> list[LossGap]:
    """Tuned loss of the scheme less tuned loss of the control at every size >= the base's.

    Runs that are the same (at the base's own size) differ by exactly 0. Elsewhere the noise is pooled over the sizes,
    and `tolerance` is one-sided at 5% over all sizes together (Bonferroni).
    """
    pairs = [(a, b) for a, b in zip(scheme, control, strict=True) if a.curve.size >= (base_size or 0)]
    apart = [(a, b) for a, b in pairs if not np.array_equal(a.losses, b.losses)]
    seeds = scheme[0].curve.seeds if scheme else 1
    noise = [v for a, b in apart if a.found and b.found and math.isfinite(v := variance(a.losses - b.losses, seeds))]
    strict = strictness(len(apart), len(noise) * (seeds - 1))
    return [_gap(a, b, noise, strict) for a, b in pairs]


def _gap(a: Fit, b: Fit, noise: Sequence[float], strict: float) -> LossGap:
    size, seeds = a.curve.size, a.curve.seeds
    if {a.missing, b.missing} & {"failed", "pruned", "not run"} or a.missing == b.missing == "diverged":
        return LossGap(size, math.nan, math.nan, math.nan, math.nan, False)
    if not (a.found and b.found):
        gap = math.inf if b.found else -math.inf
        return LossGap(size, gap, gap, gap, 0.0, gap == -math.inf)
    if np.array_equal(a.losses, b.losses):
        return LossGap(size, 0.0, 0.0, 0.0, 0.0, True)
    half = half_width(noise, seeds)
    gap, tolerance = a.loss - b.loss, half * strict
    return LossGap(size, gap, gap - half, gap + half, tolerance, gap <= tolerance)


def size_pairs(curves: Sequence[Curve]) -> list[SizePair]:
    """Every two neighbouring sizes of a scheme at every learning rate they share and the small one survives."""
    return [
        _pair(small, large, lr)
        for small, large in pairwise(sorted(curves, key=lambda c: (c.scheme, c.size)))
        if small.scheme == large.scheme
        for lr in sorted(set(small.log2_lrs.tolist()) & set(large.log2_lrs.tolist()))
        if math.isfinite(_at(small, lr).mean())
    ]


def _pair(small: Curve, large: Curve, log2_lr: float) -> SizePair:
    difference = _at(large, log2_lr) - _at(small, log2_lr)
    mean, seeds = float(difference.mean()), small.seeds
    if not math.isfinite(mean):  # the large one diverges where the small one does not
        return SizePair(small.scheme, 2.0**log2_lr, small.size, large.size, mean, mean, mean, False)
    half = half_width([float(difference.var()) / (seeds - 1) if seeds > 1 else math.nan], seeds)
    ok = mean <= half if math.isfinite(half) else mean <= 0
    return SizePair(*(small.scheme, 2.0**log2_lr, small.size, large.size), mean, mean - half, mean + half, ok)


def _at(curve: Curve, log2_lr: float) -> np.ndarray:
    """Losses per seed at one point of the grid [seeds]."""
    return curve.losses[curve.log2_lrs.tolist().index(log2_lr)]
