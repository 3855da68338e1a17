"""Dual activations: E phi(u) phi(v) and E phi'(u) phi'(v) on whole arrays of 2x2 covariances, in closed form where
known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.kernels.gaussian import Activation, Scalar, activation, pair_moment, pair_slope_moment

Array = NDArray[np.float64]
DualPair = tuple[Array, Array]
_SPECIAL: Any = torch.special


@dataclass(frozen=True)
class Dual:
    """pair(k11, k12, k22) -> (E phi(u) phi(v), E phi'(u) phi'(v)), elementwise on arrays of one shape. name: of
    phi."""

    name: str
    pair: Callable[[Array, Array, Array], DualPair]


def dual_of(phi: str | Scalar | nn.Module | Activation) -> Dual:
    """Closed form for "relu", "erf", "gelu" (exact, not tanh) and the torch functions and modules of those names.

    Any other elementwise callable is integrated numerically, one covariance at a time (~1 ms each distinct entry).
    Raises UsageError for an unknown name.
    """
    known = {"relu": relu, "erf": erf, "gelu": gelu, "linear": linear}
    if isinstance(phi, str):
        if phi not in known:
            raise UsageError(f"activation {phi!r}: choose one of {sorted(known)}, or pass a torch callable.")
        return Dual(phi, known[phi])
    if isinstance(phi, nn.ReLU) or phi in (F.relu, torch.relu):
        return Dual("relu", relu)
    if (isinstance(phi, nn.GELU) and phi.approximate == "none") or phi is F.gelu:
        return Dual("gelu", gelu)
    if phi in (torch.erf, _SPECIAL.erf):
        return Dual("erf", erf)
    return Dual(getattr(phi, "__name__", type(phi).__name__), _numerical(activation(phi)))


def linear(k11: Array, k12: Array, k22: Array) -> DualPair:
    """phi(z) = z."""
    return k12, np.ones_like(k12)


def relu(k11: Array, k12: Array, k22: Array) -> DualPair:
    """Arc-cosine kernels (Cho & Saul 2009): sqrt(k11 k22)(sin t + (pi - t) cos t)/2pi, (pi - t)/2pi."""
    scale = np.sqrt(k11 * k22)
    cosine = np.clip(np.divide(k12, scale, out=np.zeros_like(scale), where=scale > 0), -1.0, 1.0)
    theta = np.arccos(cosine)
    first = scale * (np.sqrt(1 - cosine**2) + (np.pi - theta) * cosine) / (2 * np.pi)
    return first, (np.pi - theta) / (2 * np.pi)


def erf(k11: Array, k12: Array, k22: Array) -> DualPair:
    """Williams 1997, eq. 11: (2/pi) arcsin(2 k12/sqrt((1+2k11)(1+2k22))); slopes (4/pi)/sqrt(det(I + 2K))."""
    product = (1 + 2 * k11) * (1 + 2 * k22)
    first = 2 / np.pi * np.arcsin(2 * k12 / np.sqrt(product))
    return first, 4 / np.pi / np.sqrt(product - 4 * k12**2)


def gelu(k11: Array, k12: Array, k22: Array) -> DualPair:
    """phi(z) = z Phi(z), by Stein's lemma E[u f] = k11 E[df/du] + k12 E[df/dv] and Gaussian tilting by the density
    n(u).

    Derived here (Tsuchida et al. 2020, 2002.08517, give an equivalent form) and tested against quadrature:
      E Phi(u)Phi(v)    = 1/4 + arcsin(k12/sqrt((1+k11)(1+k22)))/2pi
      E v n(u) Phi(v)   = (k22 - k12^2/(1+k11)) / (2 pi sqrt(det(I + K)))
      E u n(u) Phi(v)   = k12 / ((1+k11) 2 pi sqrt(det(I + K)))
      E u v n(u) n(v)   = k12 / (2 pi det(I + K)^(3/2))
    since n(u) turns N(0, K) into N(0, K - K e e'K/(1+k11)) with mass 1/sqrt(2 pi (1+k11)), and 1 + its v-variance is
    det(I + K)/(1+k11).
    """
    one, two = 1 + k11, 1 + k22
    det = one * two - k12**2
    root = 2 * np.pi * np.sqrt(det)
    both = 0.25 + np.arcsin(k12 / np.sqrt(one * two)) / (2 * np.pi)
    # u v Phi Phi: k11 E[v n(u) Phi(v)] + k12 E[Phi Phi] + k12 E[v Phi(u) n(v)]
    first = k12 * both + k11 * (k22 - k12**2 / one) / root + k12 * k12 / (two * root)
    # phi' = Phi + z n(z)
    slopes = both + k12 / (one * root) + k12 / (two * root) + k12 / (root * det)
    return first, slopes


def _numerical(act: Activation) -> Callable[[Array, Array, Array], DualPair]:
    def pair(k11: Array, k12: Array, k22: Array) -> DualPair:
        entries = np.stack([a.ravel() for a in np.broadcast_arrays(k11, k12, k22)], axis=1)
        distinct, where = np.unique(entries.round(14), axis=0, return_inverse=True)
        moments = np.array([[f(act, a, b, c) for f in (pair_moment, pair_slope_moment)] for a, c, b in distinct])
        first, slopes = moments[where.ravel()].T
        return first.reshape(np.shape(k12)), slopes.reshape(np.shape(k12))

    return pair
