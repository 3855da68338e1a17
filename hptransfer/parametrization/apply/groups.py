"""param_groups: one optimizer group per distinct setting, each with its ratio to the base's learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.declared import optimizer_name
from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import refuse_forgetful, refuse_twice
from hptransfer.parametrization.apply.guard import guard
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
        settings = settings_of(row, plan, decayed, eps)
        group = groups.setdefault(tuple(settings.values()), {"params": [], **settings, "hpt_names": []})
        group["params"].append(parameter)
        group["hpt_names"].append(name)
    told = {"lr": float(lr), "weight_decay": float(weight_decay), "eps": _base_eps(plan, chosen, eps)}
    told |= {} if plan.beta_power == 1 else _averages(plan, chosen)
    guard(model, plan, plan.optimizers[chosen], **_without_none(told))
    stamp: dict[str, Any] = {"hpt_optimizer": chosen, "hpt_plan": plan.fingerprint}
    if plan.optimizers[chosen].free_of_lr:
        stamp["hpt_schedules_decay"] = True
    return [_without_none({**g, "lr": lr * g["lr_mult"], **stamp}) for g in groups.values()]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the base learning rate: every group gets lr x its lr_mult. For loops that set the rate themselves.

    A scheduler made afterwards starts from it (its `initial_lr` follows); one that is in use goes on from its own.
    Raises UsageError where the groups belong to two optimizers, which have a base rate each: set each one's own; or
    where a group carries no multiplier.
    """
    bare = [i for i, group in enumerate(optimizer.param_groups) if "lr_mult" not in group]
    if bare:
        raise UsageError(
            f"set_lr({lr:.4g}): group {bare[0]} of {optimizer_name(optimizer)} carries no lr_mult, so its rate cannot "
            "follow the base's. Make the groups with hptransfer.param_groups, or hptransfer.apply_plan."
        )
    owners = {group.get("hpt_optimizer") for group in optimizer.param_groups}
    if len(owners) > 1:
        raise UsageError("Two optimizers have two base rates: call set_lr on each of optimizer.inner.")
    schedules_decay = optimizer.param_groups[0].get("hpt_schedules_decay", False)
    for group in optimizer.param_groups:
        _fill(group, "lr", lr * group["lr_mult"])
        if "initial_lr" in group and not schedules_decay:
            _fill(group, "initial_lr", lr * group["lr_mult"])


def _fill(group: dict[str, Any], key: str, value: float) -> None:
    """Set a rate; in place where it is a tensor, which a compiled step reads."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value


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


def settings_of(
    row: Row, plan: Plan, weight_decay: float, eps: float | None, averages: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a row's group holds beside its parameters and lr; rows with equal settings share a group.

    weight_decay, eps, averages (betas and the like): the base's values; the plan's own where they are not given.
    """
    info = plan.optimizers[row.optimizer]
    known = _averages(plan, info.name)
    return {
        "lr_mult": rounded(row.lr_mult),
        "weight_decay": rounded(weight_decay * row.wd_mult),
        "eps": info.group_eps(_base_eps(plan, info.name, eps), rounded(row.eps_mult), rounded(row.scale_mult)),
        **({} if plan.beta_power == 1 else _to_power(known | dict(averages or {}), plan.beta_power)),
    }


def _base_eps(plan: Plan, optimizer: str, eps: float | None) -> float | None:
    return plan.optimizers[optimizer].default_eps if eps is None else eps


def _averages(plan: Plan, optimizer: str) -> dict[str, Any]:
    """The options that are an average's decay per step, at the base."""
    info = plan.optimizers[optimizer]
    return dict(info.averages) | ({} if info.betas is None else {"betas": info.betas})


def _to_power(averages: Mapping[str, Any], power: float) -> dict[str, Any]:
    """Averages that see as many samples in batches that are `power` times as large."""
    refuse_forgetful(averages, power)
    return {k: tuple(b**power for b in v) if isinstance(v, (tuple, list)) else v**power for k, v in averages.items()}


def _without_none(group: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in group.items() if v is not None}


def rounded(value: float) -> float:
    """Equal settings share a group even when their arithmetic took another order."""
    return float(f"{value:.12g}")


def _checked(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
        raise UsageError(f"{name}={value!r}: must be a finite number >= 0.")
