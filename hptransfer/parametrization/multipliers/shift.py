"""The abc-symmetry on rows: a constant moves between forward pass, init, learning rate, eps and decay."""

from __future__ import annotations

from dataclasses import replace

from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.horizon.carried import Horizon
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
    """The row with lr_mult 1: the forward multiplier carries it. Unused rows stay, and those under a relative step."""
    degree = _lr_degree(optimizer)
    theta = row.lr_mult ** (1 / degree) if degree else 1.0
    return shift(row, 1 / theta, optimizer) if theta not in (0.0, 1.0) else row


def shift(row: Row, theta: float, optimizer: OptimizerInfo) -> Row:
    """Move a factor theta from the forward pass into the weight: W' = theta W (abc-symmetry, 2011.14522).

    The gradient at W' is 1/theta of W's, so a gradient step needs lr theta^2; a step that does not see the gradient's
    size needs lr theta (lr as it is where the step is relative to W), and its eps, compared with the gradient,
    eps / theta. Decay shrinks W' as it shrank W: lr wd stays (wd, where decay is free of lr), and an L2 term inside a
    step that does not see the gradient's size is compared with the gradient, so wd / theta^2.
    """
    lr, shrinks = theta ** _lr_degree(optimizer), theta if optimizer.decay_in_step else 1.0
    adaptive = optimizer.geometry in {"sign", "relative"}
    return replace(
        row,
        init_std=None if row.init_std is None else row.init_std * theta,
        init_mult=row.init_mult * theta,
        lr_mult=row.lr_mult * lr,
        wd_mult=row.wd_mult / (theta**2 if optimizer.l2_in_step else 1.0 if optimizer.free_of_lr else lr * shrinks),
        eps_mult=row.eps_mult / theta**optimizer.eps_power if adaptive else row.eps_mult,
        fwd_mult=row.fwd_mult / theta,
        scale_mult=row.scale_mult * theta,
        grad_mult=row.grad_mult / theta,
    )


def _lr_degree(optimizer: OptimizerInfo) -> float:
    """d, where W -> theta W asks for lr -> theta^d lr. A step proportional to a power of eps shrinks along with it."""
    own = 0.0 if optimizer.relative else 2.0 if optimizer.geometry == "gradient" else 1.0
    return own + optimizer.eps_power * optimizer.step_per_eps


def with_decay(row: Row, optimizer: OptimizerInfo, rule: DecayRule) -> Row:
    """Weight decay that keeps the base's shrinkage per step.

    Decoupled, or in a gradient step: shrinkage is lr wd, so wd ~ 1/lr; free of lr: it is wd, which stays. Where L2
    joins a step that does not see the gradient's size (torch.optim.Adam), decay is compared with the gradient, so
    wd ~ gradient / weight.
    """
    if rule == "coupled" or row.role == "unused" or optimizer.free_of_lr:
        return row
    if optimizer.l2_in_step:
        return replace(row, wd_mult=row.grad_mult / row.scale_mult)
    return replace(row, wd_mult=1 / (row.lr_mult * (row.scale_mult if optimizer.decay_in_step else 1.0)))


def with_fixed_eps(row: Row, optimizer: OptimizerInfo) -> Row:
    """The row with the eps that the user gives. A step proportional to a power of eps gives that power to lr."""
    return replace(row, eps_mult=1.0, lr_mult=row.lr_mult * row.eps_mult**optimizer.step_per_eps)


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
        scale_mult=row.scale_mult * tuned.init,
        tuned_init=row.tuned_init * tuned.init,
        lr_mult=row.lr_mult * tuned.lr,
        wd_mult=row.wd_mult * tuned.weight_decay,
        why=(*row.why, f"tuned at the base for {pattern}: {tuned}"),
    )
