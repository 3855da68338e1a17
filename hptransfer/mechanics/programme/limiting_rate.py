"""Where does the best learning rate go as width grows, and how fast, under muP, NTP and SP?

A linear network of three layers, f = scale v' W u (input 1, target 1), and one step of gradient descent on all of it.
Every layer adds h r |gradient|^2 to f, r = 1 - f0, and products of two layers' steps are smaller by n^-1/2. So:
muP (f = v' W u / n, Var W = 1/n, rates n h, h, n h): f1 = f0 + 3 h r with f0 ~ n^-1/2: the best h tends to 1/3, its
spread falls as n^-1/2. NTP (f = v' W u / n, all variances 1, one rate h): 1/3, too, but f0 stays of order 1.
SP (f = v' W u, Var v = Var W = 1/n, one rate): gradients of W and v sum to 2 n, so that the best rate is 1/(2n).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from hptransfer.mechanics.programme.check import Array, Curve, World

QUESTION = "Where does the best learning rate go as width grows, and how fast, under muP, SP and NTP?"
SOURCE = "Hayou 2511.01734 for the existence of muP's limit; the one-step limits of three layers derived here"
WIDTHS, DRAWS = (32, 64, 128, 256), 1400
TOLERANCE = {
    "muP, limiting best rate": 0.03,
    "muP, spread of the best rate x sqrt(width)": 0.05,
    "SP, exponent of the best rate in width": 0.03,
    "SP, width x the best rate": 0.05,
    "NTP, limiting best rate": 0.03,
}
REASON = "1400 networks at the largest width, 3000 below: 2% on a spread, whose next term is of order 1/n"

SPREAD = (20 / 81 + 17 / 729) ** 0.5


def theory(*, constant: float = 1.0) -> dict[str, float]:
    """1/3; sqrt(197/729 n); -1, 1/2; 1/3. constant: of each.

    The spread: h = 1/3 - dS/9 - Q/27 to first order, S the sum of the three layers' squares (variance 20/n: |u|^2 and
    |v|^2 count twice each), Q = u'W'WW'v/n + 2 v'Wu/n (variance 5/n + 4/n + 8/n, tr (W'W)^3 = 5 n), uncorrelated.
    """
    return dict(zip(TOLERANCE, (constant * v for v in (1 / 3, SPREAD, -1.0, 0.5, 1 / 3)), strict=True))


def simulate(*, seed: int = 0) -> dict[str, float]:
    """The best rate of drawn networks at each width: real steps on their weights, the loss minimised over the rate."""
    best = {name: [_best_rates(name, n, seed) for n in WIDTHS] for name in ("mup", "sp")}
    middle = [float(np.median(rates)) for rates in best["sp"]]
    measured = (
        float(np.median(best["mup"][-1])),
        float(np.mean([_spread(rates) * n**0.5 for rates, n in zip(best["mup"][-2:], WIDTHS[-2:], strict=True)])),
        _slope(WIDTHS, middle),
        middle[-1] * WIDTHS[-1],
        float(np.median(_best_rates("ntp", WIDTHS[-1], seed))),
    )
    return dict(zip(TOLERANCE, measured, strict=True))


def curve(*, seed: int = 0) -> Curve:
    """Spread of muP's best rate over width."""
    measured = np.array([_spread(_best_rates("mup", n, seed)) for n in WIDTHS])
    widths = np.array(WIDTHS, dtype=float)
    predicted = SPREAD * widths**-0.5
    return Curve(widths, predicted, measured, "width", "spread of muP's best rate", log=True)


@cache
def _best_rates(name: str, width: int, seed: int) -> Array:
    """The best rates of drawn networks: the first crossing of the target by a cubic in the rate, by Newton's steps."""
    rng = np.random.default_rng(seed + width)
    draws = min(3000, DRAWS * (WIDTHS[-1] // width) ** 2)
    a, b, c, d = np.array([_cubic(name, width, rng) for _ in range(draws)]).T
    h = -d / c
    for _ in range(20):
        h = h - (((a * h + b) * h + c) * h + d) / ((3 * a * h + 2 * b) * h + c)
    return h


def _cubic(name: str, n: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Coefficients of f - 1 after a step, in the rate h, of one network."""
    u, v = rng.normal(size=(2, n))
    w = rng.normal(size=(n, n))
    scale, rates = 1.0 / n, (1.0, 1.0, 1.0)
    if name == "sp":
        v, w, scale = v / n**0.5, w / n**0.5, 1.0
    if name == "mup":
        w, rates = w / n**0.5, (float(n), 1.0, float(n))
    wu, wv = w @ u, w.T @ v
    f0 = scale * float(v @ wu)
    r = scale * (1 - f0)
    du, dv = rates[0] * r * wv, rates[2] * r * wu  # dW = rates[1] r v u'
    middle, moved = rates[1] * r, w @ du
    one = float(v @ moved) + middle * float(v @ v) * float(u @ u) + float(dv @ wu)
    two = float(dv @ moved) + middle * (float(v @ v) * float(u @ du) + float(dv @ v) * float(u @ u))
    return scale * middle * float(dv @ v) * float(u @ du), scale * two, scale * one, f0 - 1


def _spread(rates: Array) -> float:
    """Half the central 68% of the rates: their standard deviation, without its tails."""
    low, high = np.nanquantile(rates, [0.1587, 0.8413])
    return float(high - low) / 2


def _slope(x: ArrayLike, y: ArrayLike) -> float:
    return float(np.polyfit(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)), 1)[0])


WORLD = World("limiting_rate", QUESTION, SOURCE, TOLERANCE, REASON, theory, simulate, curve)
"""This strand, for `hptransfer mechanics`."""
