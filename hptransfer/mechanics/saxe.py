"""Deep linear networks: every singular mode of the input-output map is learnt alone, along a known curve (Saxe
1312.6120).

Conventions: loss 1/2 mean |y - W_D ... W_1 x|^2 on whitened inputs, so that the modes are the singular values S of
Sigma_yx = mean y x'; small, balanced, aligned initial weights of mode strength s0; tau = 1/lr in units of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from hptransfer.core.errors import UsageError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearModes:
    """The modes of a regression: strengths S (m,), descending, with left (outputs, m) and right (inputs, m) vectors.

    unexplained: 1/2 (mean |y|^2 - sum S^2), the loss that no linear map removes.
    """

    strengths: Array
    left: Array
    right: Array
    unexplained: float


def two_layer_strength(t: ArrayLike, strength: ArrayLike, *, s0: float, tau: float = 1.0) -> Array:
    """s(t) = S e^{2St/tau} / (e^{2St/tau} - 1 + S/s0): the solution of tau ds/dt = 2 s (S - s), s(0) = s0.

    t, strength: broadcast against each other. Written as S/(1 + (S/s0 - 1) e^{-2St/tau}), which does not overflow.
    Raises UsageError where s0 or a strength is not positive.
    """
    times, s = np.asarray(t, dtype=np.float64), np.asarray(strength, dtype=np.float64)
    _positive(s0=s0, tau=tau, strength=float(s.min()))
    return s / (1 + (s / s0 - 1) * np.exp(-2 * s * times / tau))


def learning_time(strength: ArrayLike, *, s0: float, tau: float = 1.0, fraction: float = 0.5) -> Array:
    """When a two-layer mode reaches `fraction` of S: (tau/2S) log[(S/s0 - 1) fraction/(1 - fraction)]. Raises
    UsageError."""
    s = np.asarray(strength, dtype=np.float64)
    if not (0 < s0 < float(s.min()) * fraction and 0 < fraction < 1):
        raise UsageError(f"s0={s0}, fraction={fraction}: need 0 < s0 < fraction x S and fraction < 1.")
    return tau / (2 * s) * np.log((s / s0 - 1) * fraction / (1 - fraction))


def deep_strength(t: Sequence[float] | Array, strength: float, *, depth: int, s0: float, tau: float = 1.0) -> Array:
    """s(t) of a balanced network of `depth` layers: tau ds/dt = depth s^(2 - 2/depth) (S - s) (eq. 17 there,
    integrated).

    t: ascending, from 0 or later. depth 1 and 2 are the exponential and the logistic curve; others by scipy to 1e-9.
    """
    times = np.asarray(t, dtype=np.float64)
    _positive(s0=s0, tau=tau, strength=strength, depth=depth)
    if depth == 1:
        return strength + (s0 - strength) * np.exp(-times / tau)
    if depth == 2:
        return two_layer_strength(times, strength, s0=s0, tau=tau)

    def velocity(_t: float, s: Array) -> Array:
        return depth / tau * np.abs(s) ** (2 - 2 / depth) * (strength - s)

    span = (0.0, float(times[-1]))
    return solve_ivp(velocity, span, [s0], t_eval=times, rtol=1e-9, atol=1e-12, method="LSODA").y[0]


def mode_sharpness(s: ArrayLike, *, depth: int = 2) -> Array:
    """The tangent kernel's eigenvalue of a balanced mode of strength s, depth s^(2 - 2/depth); at s = S the
    Hessian's too.

    So sharpness grows with learning ("progressive sharpening") from about 0 to depth S^(2 - 2/depth), and a constant
    LR above 2 over that cannot converge to the solution. Derived from d(a^D)/da = D a^(D-1), once per layer; tested
    by autograd.
    """
    return depth * np.asarray(s, dtype=np.float64) ** (2 - 2 / depth)


def linear_modes(x: ArrayLike, y: ArrayLike, *, tolerance: float = 1e-3) -> LinearModes:
    """The modes of data x (n, inputs), y (n, outputs). Raises UsageError where mean x x' is not the identity to
    `tolerance`."""
    inputs, targets = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    gap = float(np.abs(inputs.T @ inputs / len(inputs) - np.eye(inputs.shape[1])).max())
    if gap > tolerance:
        raise UsageError(f"Inputs are not whitened: mean x x' is off the identity by {gap:.3g}. Whiten them first.")
    left, strengths, right = np.linalg.svd(targets.T @ inputs / len(inputs), full_matrices=False)
    unexplained = 0.5 * (float(np.square(targets).sum()) / len(inputs) - float(np.square(strengths).sum()))
    return LinearModes(strengths, left, right.T, unexplained)


def linear_loss_curve(
    modes: LinearModes, t: Sequence[float] | Array, *, s0: float, tau: float = 1.0, depth: int = 2
) -> Array:
    """The loss at times t: 1/2 sum (S - s(t))^2 + unexplained, every mode from strength s0. Returns (len(t),)."""
    alive = modes.strengths[modes.strengths > 1e-9 * modes.strengths[0]]
    gaps = np.stack([s - deep_strength(t, float(s), depth=depth, s0=s0, tau=tau) for s in alive])
    return 0.5 * np.square(gaps).sum(axis=0) + modes.unexplained


def _positive(**values: float) -> None:
    if bad := {name: value for name, value in values.items() if not value > 0}:
        raise UsageError(f"These must be positive: {bad}.")
