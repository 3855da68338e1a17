"""Expectations of an activation under Gaussian pre-activations: closed forms where known, else aligned quadrature."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from torch import Tensor, nn

from hptransfer.core.errors import UsageError

Array = NDArray[np.float64]
Scalar = Callable[[Tensor], Tensor]
REACH = 9.0
"""Gaussians are integrated to nine standard deviations: the mass beyond is 2e-19."""
FINE = np.linspace(-40.0, 40.0, 161)
"""Panel edges in pre-activation units: features down to about a tenth are resolved, up to |z| = 40; beyond, phi is
taken as smooth on the scale of the Gaussian (true of every activation in use, not of sin at a variance above
1000)."""


@dataclass(frozen=True)
class Activation:
    """An elementwise function with its derivative, and the places where the derivative jumps (found by bisection).

    function: torch, elementwise, continuous. Values and slopes are in float64.
    """

    function: Scalar
    kinks: tuple[float, ...] = field(default=())

    def value(self, z: Array) -> Array:
        """phi(z), any shape."""
        with torch.no_grad():
            return self.function(torch.as_tensor(z, dtype=torch.float64)).numpy()

    def slope(self, z: Array) -> Array:
        """phi'(z), any shape, by autograd."""
        with torch.enable_grad():
            point = torch.as_tensor(z, dtype=torch.float64).clone().requires_grad_()
            made = self.function(point)
            if not made.requires_grad:
                return np.zeros_like(z)
            return torch.autograd.grad(made.sum(), point)[0].numpy()


def activation(function: Scalar | nn.Module | Activation) -> Activation:
    """Prepare any elementwise torch callable (a module is copied to float64) and find its kinks in [-20, 20].

    Raises UsageError where the function is not elementwise, not finite, or jumps (then no slope variance exists).
    """
    if isinstance(function, Activation):
        return function
    try:
        return _prepared(function)
    except TypeError:  # not hashable
        return _prepared.__wrapped__(function)


@functools.lru_cache(maxsize=64)
def _prepared(function: Scalar | nn.Module) -> Activation:
    scalar = copy.deepcopy(function).double() if isinstance(function, nn.Module) else function
    made = Activation(scalar)
    if not bool(np.isfinite(made.value(np.linspace(-20, 20, 401))).all()):
        raise UsageError(f"{function!r} is not finite on [-20, 20].")
    probe = np.linspace(-3, 3, 24).reshape(4, 6)
    whole = made.value(probe)
    alone = np.array([float(made.value(np.array([[z]]))[0, 0]) for z in probe.ravel()]).reshape(probe.shape)
    if whole.shape != probe.shape or not np.allclose(whole, alone, rtol=1e-9, atol=1e-12):
        raise UsageError(f"{function!r} is not elementwise, so it is no activation in the sense of this forecast.")
    if jumps := _discontinuities(made.value):
        raise UsageError(f"{function!r} jumps at {jumps}, so its slope has no variance. Use a continuous activation.")
    return Activation(scalar, _discontinuities(made.slope))


def mean(act: Activation, q: float) -> float:
    """E phi(z), z ~ N(0, q)."""
    return _single(act, q, act.value)


def second_moment(act: Activation, q: float) -> float:
    """E phi(z)^2, z ~ N(0, q)."""
    return _single(act, q, lambda z: act.value(z) ** 2)


def slope_moment(act: Activation, q: float) -> float:
    """E phi'(z)^2, z ~ N(0, q)."""
    return _single(act, q, lambda z: act.slope(z) ** 2)


def pair_moment(act: Activation, q1: float, q2: float, c: float) -> float:
    """E phi(u) phi(v) for Gaussian u, v with variances q1, q2 and covariance c."""
    return _pair(act, act.value, q1, q2, c)


def pair_slope_moment(act: Activation, q1: float, q2: float, c: float) -> float:
    """E phi'(u) phi'(v) for Gaussian u, v with variances q1, q2 and covariance c."""
    return _pair(act, act.slope, q1, q2, c)


def _single(act: Activation, q: float, function: Callable[[Array], Array]) -> float:
    if not (math.isfinite(q) and q >= 0):
        raise UsageError(f"q={q}: a variance must be finite and not negative.")
    if q == 0:
        return float(function(np.zeros(1))[0])
    z, w = _nodes(math.sqrt(q), act.kinks)
    return float(w @ function(z))


def _pair(act: Activation, function: Callable[[Array], Array], q1: float, q2: float, c: float) -> float:
    """Outer rule in u, aligned with the kinks; for each u an inner rule in y, v = (c/q1) u + s y, aligned with them
    too."""
    if min(q1, q2) == 0:
        at_zero = float(function(np.zeros(1))[0])
        return at_zero * _single(act, max(q1, q2), function)
    if abs(c) > math.sqrt(q1 * q2) * (1 + 1e-9):
        raise UsageError(f"covariance {c} exceeds sqrt({q1} x {q2}).")
    s = math.sqrt(max(q2 - c * c / q1, 0.0))
    # the inner integral turns over a width s around each kink, the faster the closer the pair is to one point
    turns = [q1 / c * (k + t * s) for k in act.kinks for t in (-8, -4, -2, -1, 0, 1, 2, 4, 8)] if c else []
    u, w = _nodes(math.sqrt(q1), (*act.kinks, *turns))
    if s < 1e-12 * math.sqrt(q2):
        return float(w @ (function(u) * function(c / q1 * u)))
    centre = (c / q1 * u)[:, None]
    breaks = np.concatenate([act.kinks, FINE]) if s > 0.5 else np.array(act.kinks)
    fixed = np.broadcast_to(np.linspace(-REACH, REACH, 13), (len(u), 13))
    broken = np.clip((breaks - centre) / s, -REACH, REACH)
    y, wy = _panel_rule(np.sort(np.concatenate([fixed, broken], axis=1), axis=1), 10)
    inner = (function(centre + s * y) * wy * np.exp(-0.5 * y * y)).sum(axis=1) / math.sqrt(2 * math.pi)
    return float(w @ (function(u) * inner))


def _nodes(std: float, breaks: tuple[float, ...]) -> tuple[Array, Array]:
    """Nodes and Gaussian weights for N(0, std^2), on panels that end at every break."""
    inside = [b for b in (*breaks, *FINE) if abs(b) < REACH * std]
    edges = np.unique(np.concatenate([np.linspace(-REACH * std, REACH * std, 25), inside]))
    z, w = _panel_rule(edges[None, :], 12)
    z, w = z[0], w[0] * np.exp(-0.5 * (z[0] / std) ** 2) / (std * math.sqrt(2 * math.pi))
    return z, w / w.sum()


def _panel_rule(edges: Array, points: int) -> tuple[Array, Array]:
    """Gauss-Legendre on every panel. edges: (rows, panels + 1). Returns nodes and weights, (rows, panels x
    points)."""
    x, w = leggauss(points)
    middle, half = (edges[:, 1:] + edges[:, :-1]) / 2, (edges[:, 1:] - edges[:, :-1]) / 2
    nodes = middle[..., None] + half[..., None] * x
    weights = half[..., None] * w
    return nodes.reshape(len(edges), -1), weights.reshape(len(edges), -1)


def _discontinuities(function: Callable[[Array], Array]) -> tuple[float, ...]:
    """Where a function jumps: cells of a fine grid, each halved 45 times towards its larger change; a jump
    survives."""
    edges = np.linspace(-20.0, 20.0, 40 * 256 + 1) + 1e-7
    low, high = edges[:-1].copy(), edges[1:].copy()
    at_low, at_high = function(low), function(high)
    keep = np.abs(at_high - at_low) > 1e-5
    low, high, at_low, at_high = low[keep], high[keep], at_low[keep], at_high[keep]
    for _ in range(45):
        middle = (low + high) / 2
        at_middle = function(middle)
        left = np.abs(at_middle - at_low) > np.abs(at_high - at_middle)
        low, at_low = np.where(left, low, middle), np.where(left, at_low, at_middle)
        high, at_high = np.where(left, middle, high), np.where(left, at_middle, at_high)
    jumped = np.abs(at_high - at_low) > 1e-5
    return tuple(sorted({round(float(z), 9) + 0.0 for z in ((low + high) / 2)[jumped]}))
