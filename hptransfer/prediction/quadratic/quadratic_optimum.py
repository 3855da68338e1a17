"""The best LR and the best schedule of a noisy quadratic over a horizon, by exact optimisation of the recursion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from hptransfer.core.errors import UsageError
from hptransfer.prediction.quadratic.quadratic import Moments, NoisyQuadratic, advance, final_losses, loss_curve, start
from hptransfer.prediction.quadratic.stability import MomentumRule, gd

Array = NDArray[np.float64]
Shape = Callable[[float], float] | Sequence[float] | Array
"""A schedule: progress in (0, 1) -> factor on the LR (as in a recipe), or the T factors."""

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda p: 1.0,
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),
    "wsd": lambda p: min(1.0, (1.0 - p) / 0.2),
    "inverse": lambda p: 1.0 / (1.0 + 9.0 * p),
}
"""Starting points of the free search, and its baselines."""


@dataclass(frozen=True)
class QuadraticOptimum:
    """lr: the peak LR; schedule: (T,) the LR of every step; loss: the expected final loss; initial_loss: before
    training.

    max_lr: the stability limit of the constant schedule. at_limit: whether the optimum leans on the search's upper
    end.
    """

    lr: float
    schedule: Array
    loss: float
    initial_loss: float
    max_lr: float
    at_limit: bool


@dataclass(frozen=True)
class HedgedLR:
    """lr: the LR to use under uncertainty; lean: log2(lr / the certain optimum), <= 0 where the cliff is above.

    diverges: probability that lr lies above the true stability limit; loss: the expected final loss, with a diverged
    run counted at the initial loss.
    """

    lr: float
    lean: float
    diverges: float
    loss: float


def factors(shape: Shape, steps: int) -> Array:
    """The T factors of a shape, step t at progress (t + 1/2)/T. Raises UsageError for a wrong length or negative
    factors."""
    found = (
        np.array([shape((t + 0.5) / steps) for t in range(steps)], dtype=np.float64)
        if callable(shape)
        else np.asarray(shape, dtype=np.float64)
    )
    if steps < 1 or found.shape != (steps,) or not bool((found >= 0).all()) or not found.max() > 0:
        raise UsageError(f"A schedule of {steps} steps needs as many factors, all >= 0 and not all zero; got {found}.")
    return found


def optimal_lr(
    problem: NoisyQuadratic,
    steps: int,
    *,
    shape: Shape = SHAPES["constant"],
    rule: MomentumRule | None = None,
    decay: float = 0.0,
) -> QuadraticOptimum:
    """The peak LR under a fixed schedule shape that minimises the expected loss after `steps`.

    A scan of 97 LRs over 24 octaves up to four times the stability limit of the largest factor finds the basin (the
    loss need not be unimodal with momentum); a bounded Brent search (scipy) refines it to ~1e-8 relative.
    """
    chosen, fractions = rule or gd(), factors(shape, steps)
    top = 4 * problem.max_lr(chosen) / float(fractions.max())
    grid = top * np.exp2(-np.arange(97) / 4)[::-1]
    scanned = final_losses(problem, grid, fractions, rule=chosen, decay=decay)
    best = int(np.argmin(scanned))

    def log_loss(log_lr: float) -> float:
        value = float(final_losses(problem, np.array([math.exp(log_lr)]), fractions, rule=chosen, decay=decay)[0])
        return math.log(max(value, 1e-300)) if math.isfinite(value) else 700.0

    low, high = math.log(grid[max(best - 1, 0)]), math.log(grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(log_loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9})
    lr = math.exp(float(found.x))
    loss = float(final_losses(problem, np.array([lr]), fractions, rule=chosen, decay=decay)[0])
    at_edge = best in (0, len(grid) - 1)
    return QuadraticOptimum(lr, lr * fractions, loss, problem.initial_loss, problem.max_lr(chosen), at_edge)


def optimal_schedule(
    problem: NoisyQuadratic,
    steps: int,
    *,
    rule: MomentumRule | None = None,
    decay: float = 0.0,
    knots: int | None = None,
    max_lr: float | None = None,
    max_iterations: int = 200,
) -> QuadraticOptimum:
    """The LR sequence that minimises the expected loss after `steps`: free, or piecewise linear through `knots`.

    max_lr: cap on every step; default the stability limit (beyond it, Chebyshev-like sequences that cancel each
    other's blow-ups win on paper; math.inf admits them). L-BFGS-B (scipy) on log loss with the exact adjoint
    gradient, from the optima of the best two shapes in SHAPES; never worse than the best shape. Memory: 3 x steps x
    modes numbers; time: with momentum about 10 ms x steps (half a minute for 3000 steps and 80 modes).
    """
    chosen = rule or gd()
    cap = problem.max_lr(chosen) if max_lr is None else max_lr
    basis = _interpolation(steps, min(knots or steps, steps))
    unit = 1 / problem.lambda_max

    def objective(x: Array) -> tuple[float, Array]:
        loss, slope = loss_and_gradient(problem, basis @ x * unit, rule=chosen, decay=decay)
        if not (math.isfinite(loss) and np.isfinite(slope).all()):
            return 700.0, np.zeros_like(x)
        return math.log(max(loss, 1e-300)), basis.T @ slope * unit / max(loss, 1e-300)

    begun = [optimal_lr(problem, steps, shape=shape, rule=chosen, decay=decay) for shape in SHAPES.values()]
    candidates = [np.minimum(optimum.schedule, cap) for optimum in begun]
    bound = (0.0, None if math.isinf(cap) else cap / unit)
    for optimum in sorted(begun, key=lambda o: o.loss)[:2]:
        x0 = np.minimum(optimum.schedule, cap)[_knot_steps(steps, basis.shape[1])] / unit
        solution = minimize(
            objective,
            x0,
            jac=True,
            method="L-BFGS-B",
            bounds=[bound] * len(x0),
            options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "ftol": 1e-11, "gtol": 1e-9},
        )
        candidates.append(basis @ solution.x * unit)
    losses = [float(loss_curve(problem, c, rule=chosen, decay=decay)[-1]) for c in candidates]
    best = int(np.argmin(losses))
    peak = float(candidates[best].max())
    at_limit = bool(peak >= cap * (1 - 1e-6))
    return QuadraticOptimum(
        peak, candidates[best], losses[best], problem.initial_loss, problem.max_lr(chosen), at_limit
    )


def loss_and_gradient(
    problem: NoisyQuadratic, lrs: Array, *, rule: MomentumRule | None = None, decay: float = 0.0
) -> tuple[float, Array]:
    """The expected final loss and its derivative by every step's LR, (T,), by the adjoint of the moment recursion."""
    chosen = rule or gd()
    scale = chosen.lr_factor(len(lrs))
    history = [start(problem)]
    with np.errstate(over="ignore", invalid="ignore"):
        for eta, factor in zip(lrs, scale, strict=True):
            history.append(advance(problem, history[-1], chosen, eta * factor, 1 - eta * decay))
        loss = 0.5 * float(history[-1].yy.sum())
        # w = d loss / d (yy, ym, mm), pulled back through M' = A M A' + noise lambda B B'
        zeros = np.zeros_like(problem.energies)
        w = Moments(zeros + 0.5, zeros, zeros)
        slopes = np.zeros(len(lrs))
        for t in range(len(lrs) - 1, -1, -1):
            h, kept = lrs[t] * scale[t], 1 - lrs[t] * decay
            by_h, by_kept = _step_slopes(problem, history[t], w, chosen, h, kept)
            slopes[t] = by_h * scale[t] - by_kept * decay
            w = _pull_back(problem, w, chosen, h, kept)
    return loss, slopes


def hedged_lr(
    problem: NoisyQuadratic,
    steps: int,
    *,
    octaves: float,
    shape: Shape = SHAPES["constant"],
    rule: MomentumRule | None = None,
) -> HedgedLR:
    """The LR to choose when curvature is known only to a factor 2^(octaves z), z standard normal: it leans low.

    Minimises E min(loss(lr 2^(octaves z)), initial loss) over z by 32-point Gauss-Hermite on a grid of 1/16 octave,
    because the loss rises slowly below the optimum and is a cliff above. octaves: standard deviation, >= 0.
    """
    if not octaves >= 0:
        raise UsageError(f"octaves={octaves}: the standard deviation of log2 curvature cannot be negative.")
    chosen, fractions = rule or gd(), factors(shape, steps)
    certain = optimal_lr(problem, steps, shape=shape, rule=chosen)
    z, weights = hermegauss(32)
    leans = np.arange(-6 * 16, 2 * 16 + 1) / 16
    tried = certain.lr * np.exp2(leans[:, None] + octaves * z)
    losses = final_losses(problem, tried.ravel(), fractions, rule=chosen).reshape(tried.shape)
    expected = np.minimum(losses, problem.initial_loss) @ (weights / weights.sum())
    best = int(np.argmin(expected))
    lr = certain.lr * 2.0 ** float(leans[best])
    room = math.log2(certain.max_lr / (lr * float(fractions.max())))
    over = 0.5 * math.erfc(room / (octaves * math.sqrt(2))) if octaves > 0 else float(room < 0)
    return HedgedLR(lr, float(leans[best]), over, float(expected[best]))


def _step_slopes(
    problem: NoisyQuadratic, m: Moments, w: Moments, rule: MomentumRule, h: float, kept: float
) -> tuple[float, float]:
    """d loss / d h and d loss / d kept through one step; only y' = (kept - h p lambda) y - h q m - h p xi depends on
    them.

    dE y'^2 = 2 E y' dy', dE y'm' = E m' dy', with dy'/dh = -(p g + q m), dy'/dkept = y.
    """
    eig, jolt = problem.eigenvalues, problem.noise * problem.eigenvalues
    stay, pull, feed, hold = kept - h * rule.p * eig, -h * rule.q, rule.a * eig, rule.b
    y1_y, y1_m = stay * m.yy + pull * m.ym, stay * m.ym + pull * m.mm  # E y' y, E y' m
    m1_y, m1_m = feed * m.yy + hold * m.ym, feed * m.ym + hold * m.mm  # E m' y, E m' m
    y1_d = -(rule.p * (eig * y1_y - jolt * h * rule.p) + rule.q * y1_m)  # E y' dy'/dh
    m1_d = -(rule.p * (eig * m1_y + jolt * rule.a) + rule.q * m1_m)
    by_h = 2 * w.yy * y1_d + w.ym * m1_d
    by_kept = 2 * w.yy * y1_y + w.ym * m1_y
    return float(by_h.sum()), float(by_kept.sum())


def _pull_back(problem: NoisyQuadratic, w: Moments, rule: MomentumRule, h: float, kept: float) -> Moments:
    """The transpose of M -> A M A' on (yy, ym, mm)."""
    eig = problem.eigenvalues
    stay, pull, feed, hold = kept - h * rule.p * eig, -h * rule.q, rule.a * eig, rule.b
    return Moments(
        yy=stay * stay * w.yy + stay * feed * w.ym + feed * feed * w.mm,
        ym=2 * stay * pull * w.yy + (stay * hold + pull * feed) * w.ym + 2 * feed * hold * w.mm,
        mm=pull * pull * w.yy + pull * hold * w.ym + hold * hold * w.mm,
    )


def _knot_steps(steps: int, knots: int) -> NDArray[np.int64]:
    return np.rint(np.linspace(0, steps - 1, knots)).astype(np.int64)


def _interpolation(steps: int, knots: int) -> Array:
    """(steps, knots): piecewise linear interpolation from the knots, which lie at whole steps."""
    places = _knot_steps(steps, knots)
    return np.stack([np.interp(np.arange(steps), places, row) for row in np.eye(knots)], axis=1)
