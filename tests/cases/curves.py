"""Losses of u = log2(rate / best rate): what real curves look like, and shapes that are hard to judge."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def digits(u: Array) -> Array:
    """A net on digits: the loss's logarithm is a parabola, flattening far to the left. Optimum at 0."""
    return np.exp(-2.25 + np.where(u < 0, 0.33 * u**2 / (1 + 0.06 * u**2), 0.22 * u**2))


def language(u: Array) -> Array:
    """A language model: flattens on both sides, steeper to the right. Optimum at 0."""
    return 2.0 + 0.4 * (1 - np.exp(-0.12 * u**2)) + 0.02 * np.clip(u, 0, None) ** 2


def convex(u: Array) -> Array:
    """A / lr + B lr, the convex bound's shape. Optimum at 0."""
    return 2.0 + 0.03 * (2.0**u + 2.0**-u - 2)


def skewed(u: Array) -> Array:
    """Gentle to the left, exponential to the right: A / lr + B lr^2.2. Optimum at log2(A / 2.2 B) / 3.2."""
    return 2.0 + 0.06 * 2.0**-u + 0.01 * 2.0 ** (2.2 * u)


def cliff(u: Array) -> Array:
    """A parabola that diverges 0.9 octaves above its optimum at 0."""
    return np.where(u > 0.9, np.inf, 2.0 + 0.04 * u**2)


def wall(u: Array) -> Array:
    """A parabola with a steep finite wall from 0.8 octaves above its optimum at 0."""
    return 2.0 + 0.04 * u**2 + 1.5 * np.clip(u - 0.8, 0, None)


def broad(u: Array) -> Array:
    """A conv net on digits: steep to the left, nearly flat to the right. Optimum at 0."""
    return np.exp(-2.45 + np.where(u < 0, 0.30 * u**2 / (1 + 0.05 * u**2), 0.05 * u**2))
