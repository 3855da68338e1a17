"""Brute-force twins of the laws, written straight from the formulas with no thought for speed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def convex_bound_terms(
    factors: Array, distance: float = 1.0, gradient: Array | float = 1.0
) -> tuple[float, float, float]:
    """t1, t2, t3 of arXiv:2501.18965 Thm 1 by its double sum, O(T^2)."""
    f = [float(factor) for factor in factors]
    g = [float(norm) for norm in np.broadcast_to(gradient, len(factors))]
    total = sum(f)
    t3 = 0.0
    for k in range(len(f) - 1):
        after = sum(f[t] for t in range(k + 1, len(f)))
        here = sum(f[t] for t in range(k, len(f)))
        t3 += f[k] / after * sum(f[t] ** 2 * g[t] ** 2 for t in range(k, len(f))) / here
    return distance**2 / (2 * total), sum((a * b) ** 2 for a, b in zip(f, g, strict=True)) / (2 * total), 0.5 * t3


def multi_power_loss(p: Sequence[float] | Array, lrs: Array, t: int) -> float:
    """arXiv:2503.12811 eqs. 1-3 at one step, by its double sum."""
    L0, A, alpha, B, C, beta, gamma = (float(value) for value in p)
    rates = [float(lr) for lr in lrs]
    loss = L0 + A * sum(rates[: t + 1]) ** -alpha
    for k in range(1, t + 1):
        x = rates[k] ** -gamma * sum(rates[k : t + 1])
        loss -= B * (rates[k - 1] - rates[k]) * (1 - (1 + C * x) ** -beta)
    return loss
