"""apply_plan: the plan's rates for an optimizer that a script has already built, its groups split where they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.declared import optimizer_name
from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import refuse_twice
from hptransfer.parametrization.apply.checkpoint import GROUP_KEY, attach
from hptransfer.parametrization.apply.groups import rounded, settings_of
from hptransfer.parametrization.apply.guard import guard
from hptransfer.parametrization.apply.marks import name_of_parameter
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

HALVES = "use_muon"
"""The key by which classes that hold Muon and Adam in one (MuonWithAuxAdam) tell a group's half."""


def apply_plan(plan: Plan, optimizer: torch.optim.Optimizer, *, model: nn.Module | None = None) -> None:
    """Give an optimizer that stands the plan's learning rates, weight decays and eps, in place.

    Its groups keep their order, their own rates, decay flags and every other key; each is split where the plan's
    multipliers differ between its parameters, and multiplied. A rate that differs between groups stays that ratio: the
    base rate, which hptransfer.set_lr sets, is the optimizer's own `lr`. A pair, or a class that holds Muon and Adam in
    one (`use_muon` in its groups), takes a plan of two optimizers. model: needed where wrapping has replaced the
    parameters that hptransfer.parametrize_ saw. Make schedulers afterwards.
    Raises UsageError where a group carries a plan or a scheduler already, holds a parameter that the plan does not
    know or trains with another optimizer, or holds a factor that the plan carries, too.
    """
    for inner in getattr(optimizer, "inner", (optimizer,)):
        _apply(plan, inner, _namer(plan, model), model)


def _apply(
    plan: Plan, optimizer: torch.optim.Optimizer, name_of: Callable[[Tensor], str], model: nn.Module | None
) -> None:
    _fresh(optimizer)
    base = _base_rates(optimizer)
    groups = [part for group in optimizer.param_groups for part in _split(plan, optimizer, group, base, name_of)]
    for name in {group["hpt_optimizer"] for group in groups}:
        info = plan.optimizers[name]
        mine = [
            group
            for group in optimizer.param_groups
            for p in group["params"]
            if plan.rows[name_of(p)].optimizer == name
        ]
        for key in ("lr", "weight_decay", "eps", "betas", *dict(info.averages)):
            for value in {_hashable(group[key]) for group in mine if group.get(key) is not None}:
                guard(model, plan, info, **{key: value})
    optimizer.param_groups[:] = groups
    attach(plan, optimizer)


def _base_rates(optimizer: torch.optim.Optimizer) -> dict[Any, float]:
    """Half of the optimizer (None: it has one) -> its base rate: the optimizer's own, or its first group's."""
    first = {group.get(HALVES): float(group["lr"]) for group in reversed(optimizer.param_groups)}
    own = optimizer.defaults.get("lr")
    return first if own is None else dict.fromkeys(first, float(own))


def _fresh(optimizer: torch.optim.Optimizer) -> None:
    if any("lr_mult" in group for group in optimizer.param_groups):
        raise UsageError("apply_plan: this optimizer's groups carry a plan's multipliers already.")
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        raise UsageError(
            "apply_plan: a scheduler was made for this optimizer, with one rate per group as they are now. Apply the "
            "plan first, then make the scheduler."
        )


def _split(
    plan: Plan,
    optimizer: torch.optim.Optimizer,
    group: Mapping[str, Any],
    bases: Mapping[Any, float],
    name_of: Callable[[Tensor], str],
) -> Iterator[dict[str, Any]]:
    """The parts of one group, each with one setting."""
    base = bases[group.get(HALVES)]
    own = float(group["lr"]) / base if base else 1.0
    for quantity, key in (("learning rate", "lr"), ("weight decay", "weight_decay")):
        refuse_twice(quantity, group.get(key, 0.0), plan.carries.get(quantity, ()), "this plan")
    parts: dict[tuple[Any, ...], dict[str, Any]] = {}
    for parameter in group["params"]:
        row = plan.rows[name_of(parameter)]
        settings = _settings(plan, row, group, _half(plan, row, optimizer, group))
        key = (row.optimizer, *(_hashable(value) for value in settings.values()))
        part = parts.setdefault(
            key, {**group, "params": [], **settings, "hpt_names": [], "hpt_optimizer": row.optimizer}
        )
        part["params"].append(parameter)
        part["hpt_names"].append(row.name)
    for part in parts.values():
        mult = part["lr_mult"]
        part |= {key: group[key] * mult for key in ("lr", "initial_lr") if key in group}
        part |= {"lr_mult": rounded(mult * own), GROUP_KEY: plan.fingerprint} | ({"hpt_own": own} if own != 1 else {})
        yield part


def _settings(plan: Plan, row: Row, group: Mapping[str, Any], optimizer: str) -> dict[str, Any]:
    """What the plan changes in a group for one row, from the group's own values."""
    eps = group.get("eps")
    single = eps[0] if isinstance(eps, (tuple, list)) else eps
    given = {key: group[key] for key in ("betas", *dict(plan.optimizers[optimizer].averages)) if key in group}
    settings = settings_of(row, plan, float(group.get("weight_decay") or 0.0), single, given)
    keep = {"lr_mult", *(key for key in settings if key in group)}
    return {key: value for key, value in settings.items() if key in keep and value is not None}


def _half(plan: Plan, row: Row, optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> str:
    """The plan's optimizer that this group is stepped by, which must be the row's."""
    if HALVES in group and len(plan.optimizers) == 2:
        spectral = plan.optimizers[row.optimizer].geometry == "spectral"
        if bool(group[HALVES]) != spectral:
            raise UsageError(
                f"apply_plan: {row.name!r} stands in a group with {HALVES}={group[HALVES]!r}, but the plan trains it "
                f"with {row.optimizer}. Move it to the other half, or say its role with make_plan(roles=...)."
            )
    elif optimizer_name(optimizer) != row.optimizer:
        raise UsageError(
            f"apply_plan: {optimizer_name(optimizer)} holds {row.name!r}, but the plan trains it with {row.optimizer}. "
            f"Make the plan with optimizer={optimizer_name(optimizer)}, or apply it to the optimizer that it was for."
        )
    return row.optimizer


def _namer(plan: Plan, model: nn.Module | None) -> Callable[[Tensor], str]:
    """Parameter -> its name in the plan."""
    names = {} if model is None else {id(p): name for name, p in plain_names(model, plan).items()}

    def name_of(parameter: Tensor) -> str:
        name = names.get(id(parameter)) or name_of_parameter(parameter, plan)
        if name is None:
            raise UsageError(
                f"apply_plan: the optimizer holds a parameter of shape {tuple(parameter.shape)} that plan "
                f"{plan.fingerprint} does not know. Call hptransfer.parametrize_(model, plan) first, or pass model=."
            )
        return name

    return name_of


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else float(value) if isinstance(value, Tensor) else value
