"""The noisy quadratic: expected loss under any LR sequence, by the exact recursion of second moments per mode.

Mode i, in units y_i = sqrt(lambda_i) x_i so that the loss is 1/2 sum E y_i^2, sees the gradient
lambda_i y_i + sqrt(lambda_i) xi_i with E xi_i^2 = noise_i, independent of y and between steps (Zhang et al. 2019,
1907.04164, sec. 2, with a general momentum rule in place of theirs). The second moments of (y, m) then obey M' = A M
A' + noise lambda B B'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hptransfer.core.errors import UsageError
from hptransfer.prediction.quadratic.stability import MomentumRule, gd, limit

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NoisyQuadratic:
    """Modes of a (preconditioned) quadratic: the loss is 1/2 sum of energies at the start.

    eigenvalues (m,), positive; energies (m,): lambda_i E x_i^2 at the start; noise (m,): variance of one step's
    gradient along the mode, at the batch size of training. Raises UsageError for unequal lengths or values out of
    range.
    """

    eigenvalues: Array
    energies: Array
    noise: Array

    def __post_init__(self) -> None:
        shapes = {a.shape for a in (self.eigenvalues, self.energies, self.noise)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise UsageError(f"NoisyQuadratic: three vectors of one length are needed, but got shapes {shapes}.")
        finite = all(bool(np.isfinite(a).all()) for a in (self.eigenvalues, self.energies, self.noise))
        if not (finite and (self.eigenvalues > 0).all() and (self.energies >= 0).all() and (self.noise >= 0).all()):
            raise UsageError("NoisyQuadratic: eigenvalues must be positive, energies and noise >= 0, all finite.")

    @classmethod
    def of(cls, eigenvalues: ArrayLike, energies: ArrayLike, noise: ArrayLike = 0.0) -> NoisyQuadratic:
        """From any sequences; one number for `noise` serves all modes."""
        values = np.asarray(eigenvalues, dtype=np.float64)
        spread = np.broadcast_to(np.asarray(noise, dtype=np.float64), values.shape).copy()
        return cls(values, np.asarray(energies, dtype=np.float64), spread)

    @classmethod
    def power_law(cls, a: float, b: float, *, modes: int = 2000, noise: float = 0.0) -> NoisyQuadratic:
        """Eigenvalues i^-a and energies i^-b, i = 1..modes."""
        index = np.arange(1, modes + 1, dtype=np.float64)
        return cls.of(index**-a, index**-b, noise)

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue."""
        return float(self.eigenvalues.max())

    @property
    def initial_loss(self) -> float:
        """The loss before any step."""
        return 0.5 * float(self.energies.sum())

    def max_lr(self, rule: MomentumRule) -> float:
        """The largest LR at which every mode is stable."""
        return limit(rule) / self.lambda_max


@dataclass(frozen=True)
class Moments:
    """E y^2, E y m, E m^2 of every mode, each (..., m)."""

    yy: Array
    ym: Array
    mm: Array


def loss_curve(
    problem: NoisyQuadratic, lrs: Sequence[float] | Array, *, rule: MomentumRule | None = None, decay: float = 0.0
) -> Array:
    """Expected loss before step 1 and after each step, (T+1,), under the LR sequence `lrs` (T,).

    decay: decoupled weight decay (the step shrinks x by 1 - lr decay), which pulls towards the minimum of the
    quadratic here, so only its stabilising part is described. Overflow reads as inf.
    """
    chosen, steps = rule or gd(), np.asarray(lrs, dtype=np.float64)
    moments = start(problem)
    losses = [problem.initial_loss]
    with np.errstate(over="ignore", invalid="ignore"):
        for h, eta in zip(steps * chosen.lr_factor(len(steps)), steps, strict=True):
            moments = advance(problem, moments, chosen, h, 1 - eta * decay)
            losses.append(0.5 * float(moments.yy.sum()))
    return _finite(np.array(losses))


def final_losses(
    problem: NoisyQuadratic,
    lrs: Sequence[float] | Array,
    shape: Sequence[float] | Array,
    *,
    rule: MomentumRule | None = None,
    decay: float = 0.0,
) -> Array:
    """Expected final loss for each peak LR, (k,), when step t runs at lr * shape[t]. lrs: (k,); shape: (T,)."""
    chosen, peaks, factors = rule or gd(), np.asarray(lrs, dtype=np.float64), np.asarray(shape, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        if chosen.b == 0 and decay == 0 and bool((factors == factors[0]).all()):
            return _finite(_constant_gd(problem, peaks * factors[0], len(factors)))
        moments = start(problem, copies=len(peaks))
        for factor, corrected in zip(factors, factors * chosen.lr_factor(len(factors)), strict=True):
            kept = 1 - peaks[:, None] * factor * decay
            moments = advance(problem, moments, chosen, peaks[:, None] * corrected, kept)
        return _finite(0.5 * moments.yy.sum(axis=-1))


def start(problem: NoisyQuadratic, *, copies: int | None = None) -> Moments:
    """The moments before the first step, for one run (m,) or `copies` at once (copies, m)."""
    size = problem.energies.shape if copies is None else (copies, *problem.energies.shape)
    return Moments(np.broadcast_to(problem.energies, size).copy(), np.zeros(size), np.zeros(size))


def advance(problem: NoisyQuadratic, m: Moments, rule: MomentumRule, h: float | Array, kept: float | Array) -> Moments:
    """One step M' = A M A' + noise lambda B B', A = [[kept - h p lambda, -h q], [a lambda, b]], B = (-h p, a)."""
    eig = problem.eigenvalues
    stay, pull, feed, hold = kept - h * rule.p * eig, -h * rule.q, rule.a * eig, rule.b
    jolt = problem.noise * eig
    y_from_m = pull * m.ym
    return Moments(
        yy=stay * (stay * m.yy + 2 * y_from_m) + pull * pull * m.mm + jolt * (h * rule.p) ** 2,
        ym=stay * (feed * m.yy + hold * m.ym) + feed * y_from_m + pull * hold * m.mm - jolt * h * rule.p * rule.a,
        mm=feed * (feed * m.yy + 2 * hold * m.ym) + hold * hold * m.mm + jolt * rule.a**2,
    )


def _constant_gd(problem: NoisyQuadratic, lrs: Array, steps: int) -> Array:
    """1/2 sum e r^2T + noise lambda lr^2 (1 - r^2T)/(1 - r^2), r = 1 - lr lambda: the geometric series summed."""
    x = lrs[:, None] * problem.eigenvalues
    faded = (1 - x) ** (2 * steps)
    gap = x * (2 - x)  # 1 - r^2
    series = np.where(np.abs(gap) > 1e-12, (1 - faded) / np.where(gap == 0, 1, gap), float(steps))
    kick = problem.noise * problem.eigenvalues * lrs[:, None] ** 2
    return 0.5 * (problem.energies * faded + kick * series).sum(axis=-1)


def _finite(values: Array) -> Array:
    return np.where(np.isnan(values), math.inf, values)
