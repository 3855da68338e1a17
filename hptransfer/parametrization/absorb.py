"""The abc-symmetry on rows: a constant moves between forward pass, init, learning rate, eps and decay."""

from __future__ import annotations

from dataclasses import replace

from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.horizon import Horizon
from hptransfer.parametrization.options import DecayRule, Tuned
from hptransfer.parametrization.row import Row


def absorb(row: Row, theta: float, optimizer: OptimizerInfo, why: str, *, holds: bool = True) -> Row:
    """Put a new forward multiplier theta on a row's effective weight, absorbed at once, and say why.

    holds: the weight's output is theta times larger for it; False where theta only takes back another weight's factor.
    """
    moved = shift(row, theta, optimizer)
    held = row.held * theta if holds else row.held
    return replace(moved, fwd_mult=row.fwd_mult, held=held, why=(*row.why, f"{why} [here x {theta:.4g}]"))


def fold(row: Row, optimizer: OptimizerInfo) -> Row:
    """The row without its forward multiplier: the trained function stays the same."""
    return shift(row, row.fwd_mult, optimizer) if row.fwd_mult != 1.0 else row


def unfold(row: Row, optimizer: OptimizerInfo) -> Row:
    """The row with lr_mult 1: the forward multiplier carries it. Rows that start at zero or are unused stay."""
    theta = row.lr_mult**0.5 if optimizer.geometry == "gradient" else row.lr_mult
    return shift(row, 1 / theta, optimizer) if theta not in (0.0, 1.0) else row


def shift(row: Row, theta: float, optimizer: OptimizerInfo) -> Row:
    """Move a factor theta from the forward pass into the weight: W' = theta W (abc-symmetry, 2011.14522).

    The gradient at W' is 1/theta of W's, so a gradient step needs lr theta^2; a step that does not see the gradient's
    size needs lr theta, and its eps, compared with the gradient, eps / theta. Decay shrinks W' as it shrank W: lr wd
    stays, and an L2 term inside a sign step is compared with the gradient, so wd / theta^2.
    """
    lr = theta**2 if optimizer.geometry == "gradient" else theta
    return replace(
        row,
        init_std=None if row.init_std is None else row.init_std * theta,
        init_mult=row.init_mult * theta,
        lr_mult=row.lr_mult * lr,
        wd_mult=row.wd_mult / (theta**2 if _l2_in_sign(optimizer) else lr),
        eps_mult=row.eps_mult / theta if optimizer.geometry == "sign" else row.eps_mult,
        fwd_mult=row.fwd_mult / theta,
    )


def with_decay(row: Row, optimizer: OptimizerInfo, rule: DecayRule) -> Row:
    """Weight decay that keeps the base's shrinkage per step.

    Decoupled, or in a gradient step: shrinkage is lr wd, so wd ~ 1/lr. In a sign step with L2 (torch.optim.Adam) decay is
    compared with the gradient, so wd ~ gradient / weight = eps / init.
    """
    if rule == "coupled" or row.role == "unused":
        return row
    compared = _l2_in_sign(optimizer) and row.init_mult > 0
    return replace(row, wd_mult=row.eps_mult / row.init_mult if compared else 1 / row.lr_mult)


def with_horizon(row: Row, ratio: Horizon) -> Row:
    """The batch's and the duration's multipliers, which are the same for every parameter."""
    if not ratio.why or row.role == "unused":
        return row
    return replace(
        row,
        lr_mult=row.lr_mult * ratio.lr,
        wd_mult=row.wd_mult * ratio.weight_decay,
        eps_mult=row.eps_mult * ratio.eps,
        why=(*row.why, *ratio.why),
    )


def with_tuned(row: Row, tuned: Tuned, pattern: str) -> Row:
    """The factors that the user tuned at the base for the modules that `pattern` matches."""
    return replace(
        row,
        init_std=None if row.init_std is None else row.init_std * tuned.init,
        init_mult=row.init_mult * tuned.init,
        lr_mult=row.lr_mult * tuned.lr,
        wd_mult=row.wd_mult * tuned.weight_decay,
        why=(*row.why, f"tuned at the base for {pattern}: {tuned}"),
    )


def _l2_in_sign(optimizer: OptimizerInfo) -> bool:
    """Weight decay joins the gradient before a step that does not see the gradient's size (torch.optim.Adam)."""
    return optimizer.geometry == "sign" and not optimizer.decoupled
