"""Kernel regression: how does test error fall with samples, given nothing but the kernel's spectrum?

Eigenlearning (eigenlearning.py) against ridge regression with Gaussian features of the same spectrum.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hptransfer.mechanics.eigenlearning import eigenlearning
from hptransfer.mechanics.programme.check import Array, Curve, World

QUESTION = "How does the test error of a kernel method fall with the number of samples?"
SOURCE = "Simon et al. 2110.03922; features Gaussian, for which it is exact in the limit"
DECAY, POWER, MODES, RIDGE, NOISE, DRAWS = 1.5, 1.8, 400, 0.05, 0.05, 120
SAMPLES = (40, 80, 160)
TOLERANCE = {f"test error at n = {n}": 0.04 for n in SAMPLES}
REASON = "120 draws: standard error about 1%; finite n adds terms of order 1/n, 2% at 40"


def theory(*, constant: float = 1.0) -> dict[str, float]:
    """Mean squared test error at each n; constant: of the overfitting factor E_0."""
    return dict(zip(TOLERANCE, (constant * error for error in _forecast(SAMPLES)), strict=True))


def simulate(*, seed: int = 0) -> dict[str, float]:
    """Ridge regression on random features drawn anew each time."""
    return dict(zip(TOLERANCE, (_measured(n, seed) for n in SAMPLES), strict=True))


def curve(*, seed: int = 0) -> Curve:
    """The learning curve."""
    samples = np.array([8.0, 16, 32, 64, 128])
    measured = np.array([_measured(int(n), seed) for n in samples])
    return Curve(samples, np.array(_forecast(samples)), measured, "samples", "test error", log=True)


def _spectrum() -> tuple[Array, Array]:
    index = np.arange(1, MODES + 1, dtype=np.float64)
    return index**-DECAY, index**-POWER


def _forecast(samples: Iterable[float]) -> list[float]:
    values, power = _spectrum()
    return [eigenlearning(values, float(n), ridge=RIDGE).test_error(power, noise=NOISE) for n in samples]


def _measured(samples: int, seed: int) -> float:
    values, power = _spectrum()
    rng = np.random.default_rng(seed + samples)
    errors: list[float] = []
    for _ in range(DRAWS):
        x = rng.normal(size=(samples, MODES))
        y = x @ np.sqrt(power) + np.sqrt(NOISE) * rng.normal(size=samples)
        features = x * np.sqrt(values)
        gram: Array = features @ features.T + RIDGE * np.eye(samples)
        dual: Array = np.asarray(np.linalg.solve(gram, y), dtype=np.float64)
        errors.append(float(np.sum((np.sqrt(values) * (features.T @ dual) - np.sqrt(power)) ** 2)) + NOISE)
    return float(np.mean(errors))


WORLD = World("kernel_regression", QUESTION, SOURCE, TOLERANCE, REASON, theory, simulate, curve)
"""This strand, for `hptransfer mechanics`."""
