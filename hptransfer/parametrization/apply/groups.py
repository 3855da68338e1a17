"""param_groups: one optimizer group per distinct setting, and a guard that no scheduler may undo the multipliers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hptransfer.core.declared import optimizer_name
from hptransfer.core.errors import UsageError
from hptransfer.core.horizon import refuse_twice
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row


def param_groups(
    model: nn.Module,
    plan: Plan,
    *,
    lr: float | Tensor,
    weight_decay: float = 0.0,
    eps: float | None = None,
    decay: Callable[[str, Tensor], bool] | None = None,
    optimizer: type[torch.optim.Optimizer] | str | None = None,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer: each has its own lr, weight_decay and eps, and lr_mult, its ratio to `lr`.

    lr, weight_decay, eps: the base's values (eps: the optimizer's default). A tensor lr gives every group a tensor, so
    that a compiled step is not compiled again when it changes. decay: (name, parameter) -> whether weight decay
    applies; all by default. optimizer: only the parameters of this one, where a plan trains with two.
    Frozen parameters are left out. Before every step the groups' learning rates are checked against lr_mult, so that a
    scheduler or loop that overwrites them is an error instead of a silent loss of the multipliers (a compiled step is
    not checked). Each group also carries its parameters' names, its optimizer and the plan's fingerprint.
    Raises UsageError where lr or weight_decay is not a finite number >= 0 or holds a factor that the plan carries, too,
    or the model does not match the plan.
    """
    _checked("lr", float(lr))
    _checked("weight_decay", weight_decay)
    for quantity, value in (("learning rate", lr), ("weight decay", weight_decay)):
        refuse_twice(quantity, value, plan.carries.get(quantity, ()), "this plan")
    chosen = _chosen(plan, optimizer)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in plain_names(model, plan).items():
        row = plan.rows[name]
        if not parameter.requires_grad or row.optimizer != chosen:
            continue
        _accepted(parameter, row, plan)
        decayed = weight_decay if decay is None or decay(name, parameter) else 0.0
        settings = _settings(row, plan, decayed, eps)
        group = groups.setdefault(tuple(settings.values()), {"params": [], **settings, "hpt_names": []})
        group["params"].append(parameter)
        group["hpt_names"].append(name)
    _guard()
    stamp = {"hpt_optimizer": chosen, "hpt_plan": plan.fingerprint}
    return [_without_none({**g, "lr": lr * g["lr_mult"], **stamp}) for g in groups.values()]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the base learning rate: every group gets lr x its lr_mult. For loops that set the rate themselves.

    Raises UsageError where the groups belong to two optimizers, which have a base rate each: set each one's own.
    """
    owners = {group.get("hpt_optimizer") for group in optimizer.param_groups}
    if len(owners) > 1:
        raise UsageError("Two optimizers have two base rates: call set_lr on each of optimizer.inner.")
    for group in optimizer.param_groups:
        value = lr * group.get("lr_mult", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def max_lrs(groups: Sequence[Mapping[str, Any]] | torch.optim.Optimizer) -> list[float]:
    """Per-group learning rates, for schedulers that take a list: OneCycleLR(opt, max_lr=max_lrs(opt), ...)."""
    listed = groups.param_groups if isinstance(groups, torch.optim.Optimizer) else groups
    return [float(group["lr"]) for group in listed]


def _chosen(plan: Plan, optimizer: type[torch.optim.Optimizer] | str | None) -> str:
    """The plan's optimizer that the groups are for."""
    if optimizer is None and len(plan.optimizers) > 1:
        raise UsageError(f"This plan trains with {' and '.join(plan.optimizers)}: say which with optimizer=.")
    name = next(iter(plan.optimizers)) if optimizer is None else optimizer_name(optimizer)
    if name not in plan.optimizers:
        raise UsageError(f"optimizer={name}: this plan was made for {' and '.join(plan.optimizers)}.")
    return name


def _accepted(parameter: Tensor, row: Row, plan: Plan) -> None:
    if plan.optimizers[row.optimizer].matrices_only and parameter.dim() != 2:
        raise UsageError(
            f"{row.optimizer} takes 2-D parameters only, but {row.name!r} has shape {row.shape}. Make the plan with "
            f'optimizer={{"hidden": {row.optimizer}, "rest": AdamW}} and build both with hptransfer.build_optimizers.'
        )


def _settings(row: Row, plan: Plan, weight_decay: float, eps: float | None) -> dict[str, Any]:
    """What a row's group holds beside its parameters and lr; rows with equal settings share a group."""
    info = plan.optimizers[row.optimizer]
    base_eps, betas = eps if eps is not None else info.default_eps, info.betas
    return {
        "lr_mult": _rounded(row.lr_mult),
        "weight_decay": _rounded(weight_decay * row.wd_mult),
        "eps": info.group_eps(base_eps, _rounded(row.eps_mult), _rounded(row.scale_mult)),
        "betas": None if betas is None or plan.beta_power == 1 else tuple(b**plan.beta_power for b in betas),
    }


def _without_none(group: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in group.items() if v is not None}


def _rounded(value: float) -> float:
    """Equal settings share a group even when their arithmetic took another order."""
    return float(f"{value:.12g}")


def _checked(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise UsageError(f"{name}={value!r}: must be a finite number >= 0.")


# The guard: one hook on all optimizers, which looks only at groups that carry lr_mult.

_hook: list[Any] = []


def _guard() -> None:
    if not _hook:
        _hook.append(register_optimizer_step_pre_hook(_check_multipliers))


def _check_multipliers(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Refuse a step where the groups' learning rates no longer stand in the ratio of their multipliers."""
    if torch.compiler.is_compiling():  # a compiled step would be specialised on the values read here
        return
    bases: dict[str | None, float] = {}
    for group in optimizer.param_groups:
        multiplier, lr = group.get("lr_mult"), group["lr"]
        if multiplier is None or multiplier == 0 or (isinstance(lr, Tensor) and lr.device.type != "cpu"):
            continue
        own = float(lr) / multiplier
        base = bases.setdefault(group.get("hpt_optimizer"), own)
        if not math.isclose(own, base, rel_tol=1e-5, abs_tol=1e-30):
            raise UsageError(_overwritten(group, float(lr), multiplier, base))


def _overwritten(group: Mapping[str, Any], lr: float, multiplier: float, base: float) -> str:
    names = group.get("hpt_names") or ["?"]
    return (
        f"The learning rate of the group with {names[0]!r} is {lr:.4g}, but its multiplier is {multiplier:.4g} and the "
        f"base rate {base:.4g}: something overwrote the plan's multipliers. In a loop use hptransfer.set_lr(optimizer, "
        f"lr); with OneCycleLR pass max_lr=hptransfer.max_lrs(optimizer); with CosineAnnealingLR use eta_min=0 or a "
        f"LambdaLR."
    )
