"""Power-law random features: how does loss fall with parameters, data and steps, and how is compute best split?

Modes of eigenvalue i^-a, target energies i^-b, so that a target coefficient has the square i^-b. Loss against steps:
T^-(b-1)/a; against features: N^-(b-1), the tail that N random directions miss; against samples: n^-min(b-1, 2a).
Where a run of T steps of N features costs N T, loss p N^-(b-1) + q T^-(b-1)/a is least at N ~ compute^(1/(1+a)).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from hptransfer.mechanics.power_law import sample_exponent, step_exponent
from hptransfer.mechanics.programme.check import Array, Curve, World

QUESTION = "How does loss fall with parameters, data and steps, and how is compute best split between them?"
SOURCE = "Bordelon et al. 2402.01092, Maloney et al. 2210.16859; step law 2105.00507, sample law 1905.10843"
DECAY, POWER, MODES = 1.5, 1.8, 3000
WIDTHS, SAMPLES, STEPS = (32, 64, 128, 256), (48, 96, 192), (100, 300, 1000, 3000)
TOLERANCE = {
    "exponent of features": 0.05,
    "exponent of samples": 0.05,
    "exponent of steps": 0.05,
    "exponent of the best N in compute": 0.05,
}
REASON = "slopes over a decade: the first modes and draws of the features bend them by 1 to 4%"


def theory(*, constant: float = 1.0) -> dict[str, float]:
    """Exponents, as positive numbers; constant: of each."""
    exponents = (POWER - 1, sample_exponent(DECAY, POWER), step_exponent(DECAY, POWER), 1 / (1 + DECAY))
    return dict(zip(TOLERANCE, (constant * e for e in exponents), strict=True))


def simulate(*, seed: int = 0) -> dict[str, float]:
    """Slopes of losses of fits and of descent; the best N where the first N modes are trained for T steps."""
    features = -_slope(WIDTHS, [_features_loss(n, seed) for n in WIDTHS])
    samples = -_slope(SAMPLES, [_samples_loss(n, seed) for n in SAMPLES])
    steps = -_slope(STEPS, [_steps_loss(t) for t in STEPS])
    return dict(zip(TOLERANCE, (features, samples, steps, _best_split()), strict=True))


def curve(*, seed: int = 0) -> Curve:
    """Loss over features."""
    measured = np.array([_features_loss(n, seed) for n in WIDTHS])
    predicted = np.array(WIDTHS, dtype=float) ** -(POWER - 1)
    predicted *= np.exp(np.mean(np.log(measured / predicted)))
    return Curve(np.array(WIDTHS, dtype=float), predicted, measured, "features", "loss", log=True)


def _modes(count: int = MODES) -> tuple[Array, Array]:
    index = np.arange(1, count + 1, dtype=np.float64)
    return index**-DECAY, index**-POWER


def _tail(count: float) -> float:
    """sum of i^-b beyond the modes that are kept: an integral."""
    return (count + 0.5) ** -(POWER - 1) / (POWER - 1)


def _features_loss(width: int, seed: int) -> float:
    """What the best combination of `width` random features misses, on average over targets of random signs."""
    values, power = _modes()
    losses: list[float] = []
    for draw in range(4):
        rng = np.random.default_rng(seed + 1000 * draw + width)
        basis = np.linalg.qr(np.sqrt(values)[:, None] * rng.normal(size=(len(values), width)))[0]
        losses.append(float(power @ (1 - np.sum(basis**2, axis=1))) + _tail(MODES))
    return float(np.mean(losses))


def _samples_loss(samples: int, seed: int) -> float:
    """Test error of the interpolator of least norm, on average over targets of random signs."""
    values, power = _modes()
    losses: list[float] = []
    for draw in range(3):
        rng = np.random.default_rng(seed + 1000 * draw + samples)
        x = rng.normal(size=(samples, len(values)))
        left = np.linalg.solve((x * values) @ x.T, x)  # (samples, modes)
        off = -values[:, None] * (x.T @ left)  # estimate less identity, mode by mode
        off[np.diag_indices_from(off)] += 1
        losses.append(float(np.sum(off**2, axis=0) @ power) + _tail(len(values)))
    return float(np.mean(losses))


def _steps_loss(steps: float, rate: float = 1.0) -> float:
    """Descent in all modes at once, exactly."""
    values, power = _modes()
    return float(power @ (1 - rate * values) ** (2 * steps)) + _tail(MODES)


def _best_split() -> float:
    """Exponent of the N that is best at each compute N T, for a learner of the first N modes: exact sums."""
    computes = np.geomspace(1e5, 1e8, 7)
    return _slope(computes, [_best_width(float(compute)) for compute in computes])


def _best_width(compute: float) -> float:
    def loss(x: float) -> float:
        return _learner_loss(math.exp(x), compute / math.exp(x))

    found: Any = minimize_scalar(loss, bounds=(2.0, 9.0), method="bounded")
    return math.exp(float(found.x))


def _learner_loss(width: float, steps: float) -> float:
    """Descent at rate 1 for so many steps in the first `width` modes; the rest is never learnt."""
    whole = int(width)
    index = np.arange(1, whole + 1, dtype=np.float64)
    return float(index**-POWER @ (1 - index**-DECAY) ** (2 * steps)) + _tail(width)


def _slope(x: ArrayLike, y: ArrayLike) -> float:
    return float(np.polyfit(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)), 1)[0])


WORLD = World("random_features", QUESTION, SOURCE, TOLERANCE, REASON, theory, simulate, curve)
"""This strand, for `hptransfer mechanics`."""
