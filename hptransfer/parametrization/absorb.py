"""The abc-symmetry on rows: a constant moves between forward pass, init, learning rate, eps and decay."""

from __future__ import annotations

from dataclasses import replace

from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.rules import Geometry
from hptransfer.parametrization.options import DecayRule
from hptransfer.parametrization.plan import Row


def absorb(row: Row, theta: float, geometry: Geometry, why: str) -> Row:
    """Move a forward multiplier theta into a row (abc-symmetry, 2011.14522).

    W' = theta W; the gradient at W' is 1/theta of W's, so a gradient step needs lr theta^2, a step that does not see the
    gradient's size lr theta, and eps, compared with the gradient, eps/theta.
    """
    return replace(
        row,
        init_std=None if row.init_std is None else row.init_std * theta,
        init_mult=row.init_mult * theta,
        lr_mult=row.lr_mult * (theta**2 if geometry == "gradient" else theta),
        eps_mult=row.eps_mult / theta if geometry == "sign" else row.eps_mult,
        why=(*row.why, f"{why} [here x {theta:.4g}]"),
    )


def with_decay(row: Row, optimizer: OptimizerInfo, rule: DecayRule) -> Row:
    """Weight decay that keeps the base's shrinkage per step.

    Decoupled, or in a gradient step: shrinkage is lr wd, so wd ~ 1/lr. In a sign step with L2 (torch.optim.Adam) decay is
    compared with the gradient, so wd ~ gradient / weight = eps / init.
    """
    if rule == "coupled" or row.role == "unused":
        return row
    l2_in_sign = optimizer.geometry == "sign" and not optimizer.decoupled and row.init_mult > 0
    return replace(row, wd_mult=row.eps_mult / row.init_mult if l2_in_sign else 1 / row.lr_mult)
