"""The convex last-iterate bound of a learning-rate schedule, in O(T): which schedule, which base rate, which cooldown.

For a convex objective with subgradients of norm at most G and a start at distance D from a minimiser, subgradient
descent with rates lr_1..lr_T ends at most

    Omega_T = D^2/(2 S) + sum_t lr_t^2 G_t^2 / (2 S)
              + 1/2 sum_{k<T} [lr_k / R_{k+1}] [Q_k / R_k]          S = sum_t lr_t, R_k = sum_{t>=k} lr_t,
                                                                    Q_k = sum_{t>=k} lr_t^2 G_t^2
above the minimum (Schaipp et al. 2025, arXiv:2501.18965, Thm 1). With lr_t = gamma f_t it reads t1/gamma + gamma
(t2 + t3), so the best base rate is gamma* = sqrt(t1/(t2 + t3)) and the bound there is 2 sqrt(t1 (t2 + t3)).
Checked against an O(T^2) twin and against computed anchors for eight schedules and six horizons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from hptransfer.core.errors import UsageError
from hptransfer.prediction.schedules.schedule import Schedule, Shape, wsd

Array = np.ndarray


@dataclass(frozen=True)
class ConvexBound:
    """The bound as a function of the base rate.

    t1, t2, t3: distance, step-size and last-iterate terms at base rate 1, D and G included. steps: those that count
    (trailing steps at rate 0 change nothing and are left out).
    """

    t1: float
    t2: float
    t3: float
    steps: int

    @property
    def best_lr(self) -> float:
        """gamma*, in units of D/G."""
        return math.sqrt(self.t1 / (self.t2 + self.t3))

    @property
    def best_value(self) -> float:
        """Omega*, the bound at gamma*, in units of D G."""
        return 2 * math.sqrt(self.t1 * (self.t2 + self.t3))

    def value(self, lr: float) -> float:
        """The bound at a base rate > 0."""
        return self.t1 / lr + lr * (self.t2 + self.t3)


def convex_bound(
    factors: Array | Schedule, *, distance: float = 1.0, gradient_norm: float | Array = 1.0
) -> ConvexBound:
    """The bound of a schedule.

    factors: (T,), >= 0, any scale. distance: D. gradient_norm: G, one number or one per step (T,).
    Raises UsageError where the factors are not finite and >= 0, are all 0, or G and D are not positive.
    """
    f, g = _inputs(factors, distance, gradient_norm)
    tail, weight = _reverse_cumsum(f), _reverse_cumsum((f * g) ** 2)  # R_k, Q_k
    # Thm 1: k runs over all steps but the last; R_{k+1} > 0 there because the last factor is positive
    t3 = 0.5 * float(np.sum(f[:-1] / tail[1:] * (weight[:-1] / tail[:-1])))
    return ConvexBound(distance**2 / (2 * tail[0]), float(weight[0] / (2 * tail[0])), t3, len(f))


@dataclass(frozen=True)
class Cooldown:
    """The cooldown fraction that minimises the bound, its bound and base rate, and (fraction, bound) as tried."""

    fraction: float
    bound: float
    best_lr: float
    tried: tuple[tuple[float, float], ...]


def best_cooldown(
    steps: int, *, shape: Shape = "linear", final: float = 0.0, warmup: int = 0, grid: int = 21
) -> Cooldown:
    """The WSD cooldown fraction with the smallest bound at its own best base rate.

    A grid over [0, 1 - warmup/steps], then a bounded search (Brent) in the best cell; the resolution is one step.
    For a linear cooldown the answer is the longest allowed; measured 124M runs do best near 0.6, so treat the bound
    as too kind to long cooldowns (docs/theory/convex_bound.md).
    """

    def bound(fraction: float) -> ConvexBound:
        return convex_bound(wsd(steps, cooldown=fraction, shape=shape, final=final, warmup=warmup))

    top = (steps - warmup) / steps
    fractions = np.linspace(0, top, grid)
    values = [bound(f).best_value for f in fractions]
    i = int(np.argmin(values))
    low, high = fractions[max(i - 1, 0)], fractions[min(i + 1, grid - 1)]
    ends = (float(low), float(high))

    def cost(fraction: float) -> float:
        return bound(fraction).best_value

    inner = minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 0.5 / steps})
    best = float(inner.x) if inner.fun < values[i] else float(fractions[i])
    at_best = bound(best)
    tried = tuple((float(f), v) for f, v in zip(fractions, values, strict=True))
    return Cooldown(best, at_best.best_value, at_best.best_lr, tried)


def lr_ratio(source: Schedule, target: Schedule) -> float:
    """gamma*(target) / gamma*(source), as the bound has it, with the same D and G."""
    return convex_bound(target).best_lr / convex_bound(source).best_lr


def theory_exponent(shape: Callable[[int], Schedule], steps: int) -> float:
    """d ln gamma* / d ln T of a family T -> schedule, between T/sqrt(2) and T sqrt(2): -1/2 but for logarithms."""
    short, long = (shape(max(2, round(steps * r))) for r in (2**-0.5, 2**0.5))
    return math.log(lr_ratio(short, long)) / math.log(long.steps / short.steps)


def _reverse_cumsum(x: Array) -> Array:
    # summed from the end, where cooldown rates are smallest: small terms are added first, nothing is cancelled
    return np.cumsum(x[::-1])[::-1]


def _inputs(factors: Array | Schedule, distance: float, gradient_norm: float | Array) -> tuple[Array, Array]:
    f = np.asarray(factors.factors if isinstance(factors, Schedule) else factors, dtype=np.float64)
    if f.ndim != 1 or not np.all(np.isfinite(f)) or np.any(f < 0) or not np.any(f > 0):
        raise UsageError(
            "A schedule for the bound is a one-dimensional array of finite factors >= 0, not all zero, but got "
            f"shape {f.shape}, range {f.min(initial=np.inf):.3g} to {f.max(initial=-np.inf):.3g}."
        )
    g = np.asarray(gradient_norm, dtype=np.float64)
    if not (distance > 0 and math.isfinite(distance) and np.all(g > 0) and g.shape in ((), f.shape)):
        raise UsageError(
            f"distance={distance!r} must be positive, and gradient_norm positive: one number or shape {f.shape}, "
            f"but got shape {g.shape}."
        )
    last = int(np.flatnonzero(f)[-1]) + 1
    return f[:last], np.broadcast_to(g, f.shape)[:last]
