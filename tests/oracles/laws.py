"""Brute-force twins of the laws, written straight from the formulas with no thought for speed."""

from __future__ import annotations

import numpy as np


def convex_bound_terms(factors: np.ndarray, distance: float = 1.0, gradient: np.ndarray | float = 1.0):
    """t1, t2, t3 of arXiv:2501.18965 Thm 1 by its double sum, O(T^2)."""
    f, g = np.asarray(factors), np.broadcast_to(gradient, len(factors))
    total = sum(f)
    t3 = 0.0
    for k in range(len(f) - 1):
        after = sum(f[t] for t in range(k + 1, len(f)))
        here = sum(f[t] for t in range(k, len(f)))
        t3 += f[k] / after * sum(f[t] ** 2 * g[t] ** 2 for t in range(k, len(f))) / here
    return distance**2 / (2 * total), sum((f * g) ** 2) / (2 * total), 0.5 * t3


def multi_power_loss(p, lrs: np.ndarray, t: int) -> float:
    """arXiv:2503.12811 eqs. 1-3 at one step, by its double sum."""
    L0, A, alpha, B, C, beta, gamma = p
    loss = L0 + A * sum(lrs[: t + 1]) ** -alpha
    for k in range(1, t + 1):
        x = lrs[k] ** -gamma * sum(lrs[k : t + 1])
        loss -= B * (lrs[k - 1] - lrs[k]) * (1 - (1 + C * x) ** -beta)
    return loss
