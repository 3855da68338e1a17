"""Comparisons between fitted curves: drift, regret, loss against the control, and whether larger is better.

All of them pair the seeds: two runs of one seed saw the same data, so their difference has less noise than either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import t as student

from hptransfer.validation.records.results import Drift, LossGap, Regret, SizePair
from hptransfer.validation.records.runs import Run
from hptransfer.validation.verdict.optimum import CONFIDENCE, Curve, Fit, half_width, resamples, variance


def drift_between(small: Fit, large: Fit, alike: Sequence[Fit]) -> Drift:
    """How far the optimum moved from one size to another, in octaves.

    The noise of one optimum is pooled over all sizes of the scheme (`alike`); a difference has twice its variance,
    the sizes' weights being drawn independently. nan where either size has no optimum.
    """
    seeds = small.curve.seeds
    octaves = large.log2_lr - small.log2_lr
    noise = [variance(fit.log2_lrs, seeds) for fit in alike if fit.found]
    half = half_width(noise, seeds, times=2.0, bias=(large.other_log2_lr - small.other_log2_lr) / 2)
    return Drift(small.curve.scheme, octaves, octaves - half, octaves + half)


def transferred_lr(small: Fit) -> float | None:
    """The learning rate a user would carry over: the small model's optimum, to 4 digits. None where it has none."""
    return float(f"{2.0**small.log2_lr:.4g}") if small.settled else None


def regret_of(large: Fit, runs: Iterable[Run], *, lr: float) -> Regret:
    """What the transferred learning rate costs at the large model, from the runs made with it there."""
    scheme, axis, seeds = large.curve.scheme, large.curve.axis, large.curve.seeds
    wanted = scheme, large.curve.size, lr
    here = {r.seed: r for r in runs if (r.scheme, getattr(r, axis), r.lr) == wanted and r.state != "failed"}
    losses = np.array([run.val_loss for _, run in sorted(here.items())])
    if len(losses) < seeds or not large.found:
        return Regret(scheme, math.nan, math.nan, math.nan, lr)
    if not np.isfinite(losses).all():
        return Regret(scheme, math.inf, math.inf, math.inf, lr)
    loss = float(losses.mean()) - large.loss
    noise = variance(losses[resamples(seeds)].mean(axis=1) - large.losses, seeds)
    half = half_width([noise], seeds, bias=large.other_loss / 2)
    return Regret(scheme, loss, loss - half, loss + half, lr)


def loss_gaps(scheme: Sequence[Fit], control: Sequence[Fit], *, base_size: int | None) -> list[LossGap]:
    """Tuned loss of the scheme less tuned loss of the control at every size >= the base's.

    Runs that are the same (at the base's own size) differ by exactly 0. Elsewhere the noise is pooled over the sizes,
    and `tolerance` is one-sided at 5% over all sizes together (Bonferroni).
    """
    pairs = [(a, b) for a, b in zip(scheme, control, strict=True) if a.curve.size >= (base_size or 0)]
    apart = [(a, b) for a, b in pairs if not np.array_equal(a.losses, b.losses)]
    seeds = scheme[0].curve.seeds if scheme else 1
    noise = [v for a, b in apart if a.found and b.found and math.isfinite(v := variance(a.losses - b.losses, seeds))]
    strict = _strictness(len(apart), len(noise) * (seeds - 1))
    return [_gap(a, b, noise, strict) for a, b in pairs]


def _strictness(sizes: int, freedom: int) -> float:
    """The quantile that keeps all sizes' one-sided errors together at 5%, relative to that of one size."""
    if sizes == 0 or freedom == 0:
        return 1.0
    one = (1 + CONFIDENCE) / 2
    return float(student.ppf(1 - (1 - one) / sizes, freedom) / student.ppf(one, freedom))


def _gap(a: Fit, b: Fit, noise: Sequence[float], strict: float) -> LossGap:
    size, seeds = a.curve.size, a.curve.seeds
    if {a.missing, b.missing} & {"failed", "pruned", "not run"} or a.missing == b.missing == "diverged":
        return LossGap(size, math.nan, math.nan, math.nan, math.nan, False)
    if not (a.found and b.found):
        gap = math.inf if b.found else -math.inf
        return LossGap(size, gap, gap, gap, 0.0, gap == -math.inf)
    if np.array_equal(a.losses, b.losses):
        return LossGap(size, 0.0, 0.0, 0.0, 0.0, True)
    half = half_width(noise, seeds, bias=(a.other_loss - b.other_loss) / 2)
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
