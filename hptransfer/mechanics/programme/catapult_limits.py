"""The catapult: from which rate on does a wide network leave its kernel, and from which does it diverge?

f = v.u / sqrt(n): above 2/lambda the loss first rises and curvature falls, above 4/lambda training diverges
(catapult.py). Measured on the network itself, weights and all, by bisection on the rate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hptransfer.mechanics.catapult import simulate_catapult
from hptransfer.mechanics.programme.check import Curve, World

QUESTION = "From which learning rate on does a wide network leave its kernel, and from which does it diverge?"
SOURCE = "Lewkowycz et al. 2003.02218, eqs. 8-9"
WIDTH, START = 20_000, 1.0
TOLERANCE = {
    "rate x curvature that leaves the kernel": 0.03,
    "rate x curvature that diverges": 0.03,
    "curvature after a catapult at 3": 0.05,
}
REASON = "width 20,000: thresholds move by f^2/n and by 1/ln n; the settled curvature is the map's own, to 1/n"


def theory(*, constant: float = 1.0) -> dict[str, float]:
    """2, 4, and where the two-number map settles; constant: of each."""
    settled = float(simulate_catapult(3.0, 1.0, width=WIDTH, f0=START, steps=400).curvature[-1])
    return dict(zip(TOLERANCE, (constant * 2, constant * 4, constant * settled), strict=True))


def simulate(*, seed: int = 0) -> dict[str, float]:
    """Gradient descent on the weights: bisection on whether curvature dropped by 1%, and on whether it diverged."""
    leaves = _bisect(1.2, 3.0, lambda x: bool(_trained(x, seed)[1] < 0.99))
    diverges = _bisect(3.0, 5.0, lambda x: not bool(np.isfinite(_trained(x, seed)[0])))
    return dict(zip(TOLERANCE, (leaves, diverges, _trained(3.0, seed)[1]), strict=True))


def curve(*, seed: int = 0) -> Curve:
    """Where curvature settles, over the rate."""
    rates = np.array([1.0, 1.5, 1.9, 2.2, 2.6, 3.0, 3.4, 3.8])
    predicted = [simulate_catapult(r, 1.0, width=WIDTH, f0=START, steps=400).curvature[-1] for r in rates]
    measured = np.array([_trained(float(r), seed)[1] for r in rates])
    return Curve(rates, np.array(predicted), measured, "rate x initial curvature", "curvature at the end")


def _bisect(low: float, high: float, beyond: Callable[[float], bool]) -> float:
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return (low + high) / 2


def _trained(product: float, seed: int) -> tuple[float, float]:
    """(f, curvature over its first value) at the end, at lr = product / curvature; inf where it diverged."""
    rng = np.random.default_rng(seed)
    u, v = rng.normal(size=(2, WIDTH)) / 2**0.5
    v = v + (START * WIDTH**0.5 - v @ u) * u / (u @ u)  # f = START exactly
    first = float((u @ u + v @ v) / WIDTH)
    lr = product / first
    for _ in range(400):
        f = float(v @ u / WIDTH**0.5)
        if abs(f) > 1e3 * WIDTH**0.5:
            return np.inf, np.inf
        u, v = u - lr * f * v / WIDTH**0.5, v - lr * f * u / WIDTH**0.5
    return float(v @ u / WIDTH**0.5), float((u @ u + v @ v) / WIDTH) / first


WORLD = World("catapult_limits", QUESTION, SOURCE, TOLERANCE, REASON, theory, simulate, curve)
"""This strand, for `hptransfer mechanics`."""
