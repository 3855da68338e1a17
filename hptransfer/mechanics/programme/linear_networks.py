"""Deep linear networks: when is each direction of a task learnt, from balanced and from unbalanced weights?

Balanced: tau ds/dt = D s^(2 - 2/D) (S - s), mode by mode (saxe.py). Unbalanced two layers, w2^2 - w1^2 = gap kept by
the flow: tau ds/dt = sqrt(gap^2 + 4 s^2) (S - s), from d(w1 w2)/dt = (w1^2 + w2^2) (S - s) and
(w1^2 + w2^2)^2 = (w2^2 - w1^2)^2 + 4 s^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.integrate import solve_ivp

from hptransfer.mechanics.programme.check import Array, Curve, World

QUESTION = "When is each mode of a task learnt, and do unbalanced layers change it?"
SOURCE = "Saxe et al. 1312.6120, eqs. 12 and 17; the unbalanced flow derived here from its conserved quantity"
MODES, SMALL, GAP, STEP = (3.0, 1.5), 1e-3, 0.6, 1e-3
TOLERANCE = {
    "balanced, half-time of S = 3": 0.02,
    "balanced, half-time of S = 1.5": 0.02,
    "three layers, half-time of S = 1.5": 0.02,
    "unbalanced, half-time of S = 1.5": 0.02,
}
REASON = "gradient descent of step .001 against its flow: steps enter to first order, step x S x D is under 1%"


def theory(*, constant: float = 1.0) -> dict[str, float]:
    """Times at which modes reach half of S; constant: of the speed of learning."""
    half = [_flow_time(partial(_balanced, 2, S), SMALL, S / 2) / constant for S in MODES]
    deep = _flow_time(partial(_balanced, 3, MODES[1]), SMALL, MODES[1] / 2) / constant
    uneven = _flow_time(partial(_unbalanced, MODES[1]), _product(GAP), MODES[1] / 2) / constant
    return dict(zip(TOLERANCE, [*half, deep, uneven], strict=True))


def simulate(*, seed: int = 0) -> dict[str, float]:
    """Gradient descent on the weights themselves: matrices with two modes, chains of three, and unequal pairs."""
    times, strengths = _train_matrices(seed)
    half = [float(np.interp(S / 2, strengths[:, i], times)) for i, S in enumerate(MODES)]
    deep = _train_chain(np.full(3, SMALL ** (1 / 3)), MODES[1])
    low = ((GAP**2 + 4 * SMALL**2) ** 0.5 - GAP) / 2
    uneven = _train_chain(np.sqrt([low, low + GAP]), MODES[1])
    return dict(zip(TOLERANCE, [*half, deep, uneven], strict=True))


def curve(*, seed: int = 0) -> Curve:
    """The stronger mode over time."""
    times, strengths = _train_matrices(seed)
    S, kept = MODES[0], slice(None, None, 40)
    predicted = S / (1 + (S / SMALL - 1) * np.exp(-2 * S * times))
    return Curve(times[kept], predicted[kept], strengths[kept, 0], "time, steps x rate", "strength of the mode S = 3")


def _product(gap: float) -> float:
    """w1 w2 of the pair whose squares differ by gap and whose smaller square is that of `simulate`."""
    low = ((gap**2 + 4 * SMALL**2) ** 0.5 - gap) / 2
    return (low * (low + gap)) ** 0.5


def _balanced(depth: int, S: float, s: float) -> float:
    return depth * s ** (2 - 2 / depth) * (S - s)


def _unbalanced(S: float, s: float) -> float:
    return (GAP**2 + 4 * s**2) ** 0.5 * (S - s)


def _flow_time(speed: Callable[[float], float], start: float, end: float) -> float:
    """Time that ds/dt = speed(s) takes from start to end: dt/ds integrated in ln s."""

    def slowness(x: float, _t: Array) -> float:
        return math.exp(x) / speed(math.exp(x))

    flow = solve_ivp(slowness, (math.log(start), math.log(end)), [0.0], rtol=1e-9)
    return float(flow.y[0, -1])


def _train_matrices(seed: int) -> tuple[Array, Array]:
    """Two layers 4 -> 4 -> 4 from balanced, aligned weights; (times, strengths of the modes)."""
    rng = np.random.default_rng(seed)
    left, right, middle = (np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(3))
    target = left @ np.diag([*MODES, 0.0, 0.0]) @ right.T
    first, second = SMALL**0.5 * middle @ right.T, SMALL**0.5 * left @ middle.T
    strengths: list[Array] = []
    for _ in range(4000):
        product = second @ first
        strengths.append(np.diag(left.T @ product @ right)[:2].copy())
        error = target - product
        first, second = first + STEP * second.T @ error, second + STEP * error @ first.T
    return STEP * np.arange(4000, dtype=np.float64), np.array(strengths)


def _train_chain(weights: Array, target: float) -> float:
    """Time at which the product of scalar weights reaches half of the target, interpolated between steps."""
    w, before = weights.copy(), 0.0
    for step in range(200_000):
        product = float(np.prod(w))
        if product >= target / 2:
            return STEP * (step - (product - target / 2) / (product - before))
        before, w = product, w + STEP * (target - product) * product / w
    raise RuntimeError(f"The product stayed below {target / 2}.")


WORLD = World("linear_networks", QUESTION, SOURCE, TOLERANCE, REASON, theory, simulate, curve)
"""This strand, for `hptransfer mechanics`."""
