"""The smooth curve through noisy losses, and where it is lowest: Gaussian-process regression in log2 of the rate.

Rasmussen & Williams 2006, Algorithm 2.1, with a Matern 5/2 covariance (their eq. 4.17), a free constant, and the noise
known from the seeds; length and amplitude are those of greatest marginal likelihood on a small grid. With little noise
it interpolates; with much it looks for the wide basin. Losses are compressed first, z = s log(1 + (y - min y)/s), so
that a wall far above the basin does not make it ring. A diverged point counts as one as high as the highest finite one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
LENGTHS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Octaves."""
AMPLITUDES = (1.0, 3.0, 10.0)
"""In standard deviations of the compressed losses."""
BASIN = 4
"""The noise is that of the best points only, for it grows with the loss."""


@dataclass(frozen=True)
class Smoother:
    """How to smooth any losses at given rates: made for the mean over seeds, used again for every resample.

    x: the points used [points]; used: their indices in the curve. scale: the loss above the minimum from which on
    losses are compressed. at: where the smooth curve is evaluated [places];
    weights [places, points]: its values there are weights @ (z - mean z) + mean z.
    """

    x: Array
    used: Array
    scale: float
    at: Array
    weights: Array

    @classmethod
    def of(cls, log2_lrs: Array, losses: Array) -> Smoother | None:
        """From losses [points, seeds], inf = diverged; None with fewer than three points to go by."""
        means = losses.mean(axis=1)
        finite = np.isfinite(means)
        used = _used(finite)
        if len(used) < 3 or finite.sum() < 2:
            return None
        scale, noise = scale_of(losses), noise_of(_lowest(losses, BASIN))
        x, z = log2_lrs[used], compressed(means[used], scale)
        height = np.where(np.isfinite(means[used]), means[used] - means[finite].min(), math.inf)
        noises = noise / (1 + height / scale) ** 2 + (0.02 * scale) ** 2
        covariance = _likeliest(x, z, noises)
        at = _places(log2_lrs, finite)
        weights = covariance(at) @ np.linalg.inv(covariance(x) + np.diag(noises))
        return cls(x, used, scale, at, weights)

    def minimum(self, means: Array) -> float:
        """Where (log2 lr) the smooth curve through these means [points of the whole curve] is lowest."""
        return float(self.at[np.argmin(self.heights(means))])

    def heights(self, means: Array) -> Array:
        """The smooth curve through these means at every place, above its own lowest value, in units of the loss."""
        z = compressed(means[self.used], self.scale)
        smooth = self.weights @ (z - z.mean()) + z.mean()
        opened = self.scale * np.expm1(smooth / self.scale)
        return opened - opened.min()

    def height_at(self, means: Array, log2_lr: float) -> float:
        """The same at one rate; nan outside the places."""
        inside = self.at[0] - 1e-9 <= log2_lr <= self.at[-1] + 1e-9
        return float(np.interp(log2_lr, self.at, self.heights(means))) if inside else math.nan


def compressed(means: Array, scale: float) -> Array:
    """Losses above their minimum, linear near it and logarithmic above `scale`; a diverged one as the highest."""
    finite = np.isfinite(means)
    lowest = means[finite].min()
    z = scale * np.log1p((np.where(finite, means, lowest) - lowest) / scale)
    return np.where(finite, z, max(float(z[finite].max()), scale))


def _used(finite: Array) -> Array:
    """Indices of the finite points and of the first diverged one above them."""
    index = np.flatnonzero(finite)
    beyond = [] if len(index) == 0 or index[-1] + 1 == len(finite) else [index[-1] + 1]
    return np.array([*index, *beyond], dtype=int)


def scale_of(losses: Array) -> float:
    """The rise of the third lowest mean of losses [points, seeds], or twice the noise where that is more."""
    means = losses.mean(axis=1)
    rises = np.sort(means[np.isfinite(means)]) - means.min()
    return max(float(rises[min(2, len(rises) - 1)]), 2 * math.sqrt(noise_of(_lowest(losses, BASIN))), 1e-12)


def noise_of(losses: Array, weights: Array | None = None) -> float:
    """Variance of a mean over seeds about the smooth curve, from finite losses [points, seeds]; 0 where it cannot tell.

    What is left of the losses after each seed's and each point's own mean: a seed that is better or worse throughout
    moves no optimum. weights: factors on what is left at each point [points].
    """
    rest = losses - losses.mean(axis=1, keepdims=True)
    rest = rest - rest.mean(axis=0, keepdims=True)
    if weights is not None:
        rest = rest * weights[:, None]
    freedom = (losses.shape[0] - 1) * (losses.shape[1] - 1)
    return float((rest**2).sum()) / freedom / losses.shape[1] if freedom > 0 else 0.0


def _lowest(losses: Array, count: int) -> Array:
    """The points of lowest finite mean, at most so many."""
    means = losses.mean(axis=1)
    return losses[np.argsort(means)[: min(count, int(np.isfinite(means).sum()))]]


def _places(log2_lrs: Array, finite: Array) -> Array:
    """Where the curve may be lowest: from the first finite point to halfway to the first diverged one."""
    index = np.flatnonzero(finite)
    first, last = log2_lrs[index[0]], log2_lrs[index[-1]]
    end = last if index[-1] + 1 == len(log2_lrs) else (last + log2_lrs[index[-1] + 1]) / 2
    return np.linspace(first, end, 1 + math.ceil(64 * (end - first)) if end > first else 2)


class _Covariance:
    """Matern 5/2 between places and the points, plus that of a constant of unknown size."""

    def __init__(self, x: Array, length: float, amplitude: float, spread: float) -> None:
        self.x, self.length, self.variance, self.constant = x, length, (amplitude * spread) ** 2, (10 * spread) ** 2

    def __call__(self, at: Array) -> Array:
        r = math.sqrt(5) * np.abs(at[:, None] - self.x[None, :]) / self.length
        return self.variance * (1 + r + r * r / 3) * np.exp(-r) + self.constant


def _likeliest(x: Array, z: Array, noises: Array) -> _Covariance:
    """The covariance of greatest marginal likelihood, log p(z) = -z' K^-1 z / 2 - log|K| / 2 (R&W eq. 2.30)."""
    spread = float(z.std()) or 1e-12
    candidates = [_Covariance(x, length, a, spread) for length in LENGTHS for a in AMPLITUDES]

    def log_likelihood(covariance: _Covariance) -> float:
        factor = np.linalg.cholesky(covariance(x) + np.diag(noises))
        half = np.linalg.solve(factor, z - z.mean())
        return float(-half @ half / 2 - np.log(np.diag(factor)).sum())

    return max(candidates, key=log_likelihood)
