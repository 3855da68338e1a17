"""How wide is wide enough for the kernel, and what decides between lazy and rich learning?

Fluctuations of the tangent kernel at initialisation: relative standard deviation c n^-1/2, with c^2 the variance of one
unit's share over its squared mean. One scale decides the regime: a network whose output is multiplied by alpha, with
the rate divided by alpha^2, moves its kernel by an amount that falls as 1/alpha.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hptransfer.mechanics.programme.check import Array, Curve, World

QUESTION = "How fast does a network's kernel settle with width, and what turns lazy learning into rich?"
SOURCE = "Jacot et al. 1806.07572; Chizat et al. 1812.07956; Hanin & Nica 1909.05989 for the rate in width"
WIDTHS, ALPHAS = (64, 128, 256, 512, 1024), (32.0, 64.0, 128.0, 256.0)
TOLERANCE = {
    "exponent of kernel noise in width": 0.06,
    "kernel noise x sqrt(width)": 0.05,
    "exponent of kernel movement in the output's scale": 0.05,
}
REASON = "4000 networks a width: 1% on each standard deviation; movement has terms of order 1/alpha beyond the first"
NETWORKS, TASK = 4000, 3


def theory(*, constant: float = 1.0) -> dict[str, float]:
    """-1/2; sqrt(3); -1. constant: of each.

    f = v . relu(u x)/sqrt(n) at one input of norm 1: a unit adds s = relu(z)^2 + v^2 1[z > 0] to n times the kernel, z
    and v standard normals. E s = 1/2 + 1/2, E s^2 = 3/2 + 2 x 1/2 + 3/2 = 4, so that the variance of s is 3.
    """
    return dict(zip(TOLERANCE, (-0.5 * constant, 3**0.5 * constant, -1.0 * constant), strict=True))


def simulate(*, seed: int = 0) -> dict[str, float]:
    """Kernels of drawn networks at each width; kernel movement of trained networks at each output scale."""
    noise = [_kernel_noise(n, seed) for n in WIDTHS]
    moved = [_movement(alpha, seed) for alpha in ALPHAS]
    scaled = float(np.mean([x * n**0.5 for x, n in zip(noise, WIDTHS, strict=True)]))
    return dict(zip(TOLERANCE, (_slope(WIDTHS, noise), scaled, _slope(ALPHAS, moved)), strict=True))


def curve(*, seed: int = 0) -> Curve:
    """Kernel noise over width."""
    widths = np.array(WIDTHS, dtype=float)
    measured = np.array([_kernel_noise(n, seed) for n in WIDTHS])
    return Curve(widths, (3 / widths) ** 0.5, measured, "width", "relative noise of the kernel", log=True)


def _kernel_noise(width: int, seed: int) -> float:
    """Relative standard deviation over networks of the tangent kernel at one input of norm 1."""
    rng = np.random.default_rng(seed + width)
    z, v = rng.normal(size=(2, NETWORKS, width))
    kernels = np.mean(np.maximum(z, 0) ** 2 + v**2 * (z > 0), axis=1)
    return float(kernels.std(ddof=1) / kernels.mean())


def _movement(alpha: float, seed: int) -> float:
    """Relative change of the kernel on the training points once fitted: alpha (f - f0) to targets of size 1."""
    rng = np.random.default_rng(seed)
    width, points = 512, 4
    x = np.linalg.qr(rng.normal(size=(TASK + 1, points)))[0].T[:, : TASK + 1]
    y = rng.choice([-1.0, 1.0], size=points)
    u, v = rng.normal(size=(width, TASK + 1)), rng.normal(size=width)
    start, first = _outputs(u, v, x), _kernel(u, v, x)
    rate = 0.5 / float(np.linalg.eigvalsh(first)[-1])
    for _ in range(400):
        error = alpha * (_outputs(u, v, x) - start) - y
        u, v = _stepped(u, v, x, error, rate / alpha)
    return float(np.linalg.norm(_kernel(u, v, x) - first) / np.linalg.norm(first))


def _outputs(u: Array, v: Array, x: Array) -> Array:
    return np.maximum(x @ u.T, 0) @ v / len(v) ** 0.5


def _stepped(u: Array, v: Array, x: Array, error: Array, rate: float) -> tuple[Array, Array]:
    hidden = x @ u.T
    back = error[:, None] * (hidden > 0) * v / len(v) ** 0.5
    return u - rate * back.T @ x, v - rate * np.maximum(hidden, 0).T @ error / len(v) ** 0.5


def _kernel(u: Array, v: Array, x: Array) -> Array:
    hidden = x @ u.T
    on = (hidden > 0) * v
    return (np.maximum(hidden, 0) @ np.maximum(hidden, 0).T + (on @ on.T) * (x @ x.T)) / len(v)


def _slope(x: ArrayLike, y: ArrayLike) -> float:
    return float(np.polyfit(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)), 1)[0])


WORLD = World("lazy_and_rich", QUESTION, SOURCE, TOLERANCE, REASON, theory, simulate, curve)
"""This strand, for `hptransfer mechanics`."""
