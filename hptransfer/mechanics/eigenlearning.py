"""Eigenlearning: the test error of kernel ridge regression from the kernel's spectrum (Simon et al. 2110.03922).

n samples divide n units of learnability between the modes: sum_i L_i + ridge/kappa = n, L_i = lambda/(lambda +
kappa). Exact for Gaussian features as n grows; for real kernels it rests on universality, which holds to some
percent in 10 input dimensions and fails in 1 to 3 without ridge, where the forecast is too low (docs/limits; tested
both ways).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from hptransfer.core.errors import UsageError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Eigenlearning:
    """eigenvalues (m,) with multiplicity (m,); samples n; ridge delta; kappa; learnability (m,), each in [0, 1].

    overfitting: E_0 = n/(n - sum L_i^2), the factor by which test error exceeds the error of the mean predictor (inf
    at the interpolation peak).
    """

    eigenvalues: Array
    multiplicity: Array
    samples: float
    ridge: float
    kappa: float
    learnability: Array
    overfitting: float

    def total_learnability(self) -> float:
        """sum_i L_i + ridge/kappa: the sample size, by conservation (with fewer modes than samples and no ridge: the
        modes)."""
        spent = 0.0 if self.ridge == 0 else self.ridge / self.kappa
        return float(self.multiplicity @ self.learnability) + spent

    def test_error(self, power: ArrayLike, *, noise: float = 0.0) -> float:
        """Expected mean squared test error E_0 (sum_i (1 - L_i)^2 v_i^2 + noise), noise included in the test labels.

        power: (m,), the target's squared coefficients summed over each eigenvalue's multiplicity; noise: label
        variance.
        """
        return self.overfitting * (float(np.square(1 - self.learnability) @ self._checked(power)) + noise)

    def train_error(self, power: ArrayLike, *, noise: float = 0.0) -> float:
        """Expected mean squared error on the training labels: (ridge/(n kappa))^2 times the test error."""
        if self.ridge == 0:
            return self._underdetermined_train_error(power, noise)
        return (self.ridge / (self.samples * self.kappa)) ** 2 * self.test_error(power, noise=noise)

    def _underdetermined_train_error(self, power: ArrayLike, noise: float) -> float:
        modes = float(self.multiplicity.sum())
        if self.samples < modes:
            return 0.0
        self._checked(power)
        return noise * (self.samples - modes) / self.samples  # ordinary least squares

    def _checked(self, power: ArrayLike) -> Array:
        values = np.asarray(power, dtype=np.float64)
        if values.shape != self.eigenvalues.shape:
            raise UsageError(f"power has shape {values.shape}, but there are {len(self.eigenvalues)} eigenvalues.")
        return values


def eigenlearning(
    eigenvalues: ArrayLike, samples: float, *, ridge: float = 0.0, multiplicity: ArrayLike | None = None
) -> Eigenlearning:
    """Solve sum lambda/(lambda + kappa) + ridge/kappa = n for kappa > 0 (scipy brentq in log kappa, to 1e-14).

    eigenvalues: of the kernel's integral operator, positive; ridge: delta in (K + delta I), K = k(x_i, x_j) unscaled.
    Without ridge and with no more modes than samples kappa is 0 and every mode is learnt. Raises UsageError for bad
    input.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    counts = np.ones_like(values) if multiplicity is None else np.asarray(multiplicity, dtype=np.float64)
    if values.ndim != 1 or counts.shape != values.shape or not (values > 0).all() or not (counts > 0).all():
        raise UsageError("eigenlearning needs positive eigenvalues (m,) and positive multiplicities of the same shape.")
    if not (samples > 0 and ridge >= 0):
        raise UsageError(f"samples={samples}, ridge={ridge}: need > 0 and >= 0.")
    if ridge == 0 and counts.sum() <= samples:
        modes = float(counts.sum())
        peak = math.inf if modes == samples else samples / (samples - modes)
        return Eigenlearning(values, counts, samples, ridge, 0.0, np.ones_like(values), peak)

    def excess(log_kappa: float) -> float:
        kappa = math.exp(log_kappa)
        return float(counts @ (values / (values + kappa))) + ridge / kappa - samples

    high = math.log((float(counts @ values) + ridge) / samples) + 1e-9  # kappa n <= sum lambda + ridge
    low = high - 1.0
    while excess(low) < 0:
        low -= 4.0
    kappa = math.exp(float(brentq(excess, low, high, xtol=1e-14)))
    learnt = values / (values + kappa)
    return Eigenlearning(values, counts, samples, ridge, kappa, learnt, samples / (samples - float(counts @ learnt**2)))


def spectrum_of(kernel: ArrayLike, targets: ArrayLike) -> tuple[Array, Array]:
    """Eigenvalues (m,) and target power (m,) of a kernel (N, N) on a large pool of N points with targets (N,).

    lambda_i = eigenvalue/N and v_i^2 = (u_i . y)^2/N: the forecast is about samples n << N drawn from the pool, its
    error taken over the whole pool. Eigenvalues below 1e-12 of the largest are dropped; what the target has there,
    mean y^2 - sum v^2, is to be counted as noise.
    """
    matrix, y = np.asarray(kernel, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if matrix.shape != (len(y), len(y)) or y.ndim != 1:
        raise UsageError(f"kernel {matrix.shape}, targets {y.shape}: need (N, N) and (N,).")
    values, vectors = np.linalg.eigh(matrix)
    keep = values > 1e-12 * values[-1]
    return values[keep][::-1] / len(y), np.square(vectors[:, keep].T @ y)[::-1] / len(y)
