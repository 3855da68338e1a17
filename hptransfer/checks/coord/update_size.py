"""How far the optimizer has moved every parameter, in the units of the spectral condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.training.seeding import seeded
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.measure import rms
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

LARGE = 1024
"""Matrices whose smaller side is larger get their norm from a randomised SVD instead of an exact one."""


@dataclass(frozen=True)
class Moved:
    """The effective (forward) weight W of one parameter after t steps, and its change dW since t = 0.

    matrix: it has at least two axes.
    weight_rms, update_rms: root mean squares of W and dW. weight_norm, update_norm: their largest singular values, over
    every slice for a 3-D weight (experts). natural: ||dW||_2 / sqrt(fan_out / fan_in), of order 1 at every width where
    the spectral condition holds (2310.17813, Condition 1).
    """

    width: int
    seed: int
    t: int
    parameter: str
    matrix: bool
    weight_rms: float
    update_rms: float
    weight_norm: float
    update_norm: float
    natural: float

    @property
    def ratio(self) -> float:
        """RMS of dW relative to W; inf where W is zero."""
        return self.update_rms / self.weight_rms if self.weight_rms else math.inf


def initial_weights(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Plan name -> a copy of the parameter, for every one that trains."""
    return {n: p.detach().clone() for n, p in plain_names(model, plan).items() if p.requires_grad}


@torch.no_grad()
def moved(model: nn.Module, plan: Plan, initial: Mapping[str, Tensor], *, width: int, seed: int, t: int) -> list[Moved]:
    """The update size of every trained parameter. initial: from `initial_weights` at t = 0."""
    present = plain_names(model, plan)
    return [_moved(plan[n], present[n].detach(), before, width, seed, t) for n, before in initial.items()]


def _moved(row: Row, now: Tensor, before: Tensor, width: int, seed: int, t: int) -> Moved:
    forward = abs(row.fwd_mult)
    change = now - before
    size = forward * spectral_norm(change, row)
    return Moved(
        width=width,
        seed=seed,
        t=t,
        parameter=row.name,
        matrix=now.dim() > 1,
        weight_rms=forward * rms(now),
        update_rms=forward * rms(change),
        weight_norm=forward * spectral_norm(now, row),
        update_norm=size,
        natural=size / math.sqrt(row.fan_out / row.fan_in),
    )


def spectral_norm(weight: Tensor, row: Row) -> float:
    """Largest singular value of a weight as the matrix that its fans make of it; nan where it is not finite.

    A gain or bias is a column, a kernel's positions belong to the fan-in, and of a stack of matrices (fan_in x fan_out
    is a slice's size) the largest counts.
    """
    wide = weight if weight.dtype == torch.float64 else weight.float()
    if wide.numel() == 0:
        return 0.0
    if not bool(torch.isfinite(wide).all()):
        return math.nan
    return max(_norm(matrix) for matrix in _matrices(wide, row))


def _matrices(weight: Tensor, row: Row) -> list[Tensor]:
    if weight.dim() < 2:
        return [weight.reshape(-1, 1)]
    if weight.dim() == 3 and weight[0].numel() == row.fan_in * row.fan_out and len(weight) > 1:
        return list(weight)
    return [weight.flatten(1)]


def _norm(matrix: Tensor) -> float:
    """From the Gram matrix of the smaller side: exact to half the digits, which is ample for a norm."""
    if min(matrix.shape) > LARGE:
        return float(sketched_singular_values(matrix)[0])
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1])))


def sketched_singular_values(matrix: Tensor) -> Tensor:
    """The eight largest singular values by a randomised SVD: the same each time, and no draw of the caller's."""
    untyped: Any = torch
    with seeded(None):
        return untyped.svd_lowrank(matrix, q=8, niter=6)[1]
