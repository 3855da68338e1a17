"""Critical initialisation: edge of chaos, gains and residual scales for any activation, by Gaussian quadrature.

Mean-field maps of a wide layer z' = W phi(z) + b, W_ij ~ N(0, s_w^2/fan_in), b ~ N(0, s_b^2): the variance of
pre-activations maps as q' = s_w^2 E phi(z)^2 + s_b^2, gradients' squared norms shrink or grow by chi = s_w^2 E
phi'(z)^2 per layer, z ~ N(0, q) (Poole et al. 1606.05340, Schoenholz et al. 1611.01232, eqs. 3-7; tested on wide
random nets).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq, minimize_scalar
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.kernels.gaussian import Activation, Scalar, activation, second_moment, slope_moment

LOG_REACH = 18.0
"""Variances are followed while |log q| is below this."""


@dataclass(frozen=True)
class InitPoint:
    """weight_var: s_w^2 (times 1/fan_in is the weights' variance); bias_var: s_b^2; q: pre-activation variance; chi:
    gradient factor.

    any_q: the activation is positively homogeneous, so q stays whatever the input makes it.
    """

    weight_var: float
    bias_var: float
    q: float
    chi: float
    any_q: bool = False

    @property
    def gain(self) -> float:
        """s_w: the weights' std is gain / sqrt(fan_in), as in torch.nn.init."""
        return math.sqrt(self.weight_var)


def edge_of_chaos(act: Scalar | nn.Module | Activation, *, bias_var: float = 0.0) -> InitPoint:
    """The s_w^2 at which the variance map has a fixed point q with chi = 1, for this bias variance.

    Solves q - s_b^2 = E phi^2 / E phi'^2 at the smallest q > 0 (scipy brentq, 1e-12 relative). A homogeneous
    activation (ReLU) is critical at every q when bias_var = 0. Raises UsageError where there is none (ReLU with
    biases), or for a negative bias_var.
    """
    prepared = activation(act)
    if not bias_var >= 0:
        raise UsageError(f"bias_var={bias_var}: a variance cannot be negative.")
    if _homogeneous(prepared):
        if bias_var > 0:
            raise UsageError("A homogeneous activation with random biases has no critical point: q grows without end.")
        return InitPoint(1 / slope_moment(prepared, 1.0), 0.0, 1.0, 1.0, any_q=True)

    def excess(log_q: float) -> float:
        q = math.exp(log_q)
        return 1 - (bias_var + second_moment(prepared, q) / slope_moment(prepared, q)) / q

    roots = _crossings(excess, np.linspace(math.log(1e-8), math.log(1e4), 120))
    if not roots:
        raise UsageError(
            f"No critical point with bias variance {bias_var}: the variance map has no fixed point with chi = 1."
        )
    q = math.exp(roots[0])
    weight_var = 1 / slope_moment(prepared, q)
    return InitPoint(weight_var, bias_var, q, weight_var * slope_moment(prepared, q))


def variance_preserving(act: Scalar | nn.Module | Activation, *, q: float = 1.0, bias_var: float = 0.0) -> InitPoint:
    """The s_w^2 for which pre-activations of variance q keep it: (q - s_b^2) / E phi^2, with the chi that follows.

    chi is 1 for homogeneous activations only: elsewhere variance is kept at the price of gradients (chi^depth).
    Raises UsageError where bias_var >= q.
    """
    prepared = activation(act)
    if not 0 <= bias_var < q:
        raise UsageError(f"bias_var={bias_var}, q={q}: 0 <= bias_var < q is needed.")
    weight_var = (q - bias_var) / second_moment(prepared, q)
    return InitPoint(weight_var, bias_var, q, weight_var * slope_moment(prepared, q), _homogeneous(prepared))


def depth_balanced(
    act: Scalar | nn.Module | Activation, *, depth: int, q0: float = 1.0, bias_var: float = 0.0
) -> InitPoint:
    """The s_w^2 of a plain net of this depth that best keeps both signals: least (log q_L/q_0)^2 + (log prod
    chi_l)^2.

    At depth 1 a compromise between two conditions; as depth grows it tends to a point where neither drifts, where
    one exists (2 exactly for ReLU). q, chi: at the last layer, chi as the geometric mean. Found by scipy's bounded
    search.
    """
    if depth < 1:
        raise UsageError(f"depth={depth}: at least one layer is needed.")
    prepared = activation(act)
    centre = math.log(variance_preserving(prepared, q=q0, bias_var=min(bias_var, q0 / 2)).weight_var)

    seconds, slopes = _log_map(prepared, second_moment), _log_map(prepared, slope_moment)

    def walk(log_weight_var: float) -> tuple[float, float]:
        log_q, log_chi = math.log(q0), 0.0
        for _ in range(depth):
            log_chi += log_weight_var + float(slopes(log_q))
            log_q = math.log(math.exp(log_weight_var + float(seconds(log_q))) + bias_var)
            if abs(log_q) > LOG_REACH:
                break
        return log_q, log_chi

    def cost(log_weight_var: float) -> float:
        log_q, log_chi = walk(log_weight_var)
        lost = abs(log_q) > LOG_REACH
        return 1e6 + abs(log_weight_var - centre) if lost else (log_q - math.log(q0)) ** 2 + log_chi**2

    grid = centre + np.linspace(-1.5, 1.5, 61)
    best = float(grid[int(np.argmin([cost(g) for g in grid]))])
    inner = minimize_scalar(cost, bounds=(best - 0.05, best + 0.05), method="bounded", options={"xatol": 1e-10})
    log_weight_var = float(inner.x)
    log_q, log_chi = walk(log_weight_var)
    return InitPoint(
        math.exp(log_weight_var), bias_var, math.exp(log_q), math.exp(log_chi / depth), _homogeneous(prepared)
    )


def residual_scale(depth: int, *, growth: float = 2.0, branch_gain: float = 1.0, normalised: bool = True) -> float:
    """alpha in x + alpha F(x), so that the stream's variance grows by `growth` over `depth` blocks.

    branch_gain: k, the variance that F adds per unit of variance it sees. normalised (pre-norm blocks, F sees unit
    variance): 1 + depth alpha^2 k; else (1 + alpha^2 k)^depth. Branches are taken as uncorrelated with the stream,
    which holds for their freshly initialised last matrix. alpha ~ depth^-1/2 either way. Raises UsageError for
    growth <= 1, depth < 1 or branch_gain <= 0.
    """
    if depth < 1 or growth <= 1 or branch_gain <= 0:
        raise UsageError(f"depth={depth}, growth={growth}, branch_gain={branch_gain}: need >= 1, > 1 and > 0.")
    added = (growth - 1) / depth if normalised else growth ** (1 / depth) - 1
    return math.sqrt(added / branch_gain)


def _log_map(act: Activation, moment: Callable[[Activation, float], float]) -> CubicSpline:
    """log moment as a function of log q, through 181 exact values: good to ~1e-7."""
    grid = np.linspace(-LOG_REACH, LOG_REACH, 181)
    return CubicSpline(grid, [math.log(max(moment(act, math.exp(g)), 1e-300)) for g in grid])


def _homogeneous(act: Activation) -> bool:
    z = np.linspace(-4, 4, 17)
    return bool(np.allclose(act.value(3 * z), 3 * act.value(z), rtol=1e-12, atol=1e-12))


def _crossings(function: Callable[[float], float], grid: np.ndarray) -> list[float]:
    values = [function(float(g)) for g in grid]
    pairs = zip(grid[:-1], grid[1:], values[:-1], values[1:], strict=True)
    return [float(brentq(function, a, b, xtol=1e-13)) for a, b, u, v in pairs if u < 0 <= v]
