"""The guard: before every step of any optimizer, its groups must be what their plan was made for. One hook on all.

It looks at groups that param_groups made: their learning rates must stand in the ratio of the multipliers, the flags
that change a rule (adjust_lr_fn, decoupled_weight_decay, betas) must be the plan's, and nothing that the optimizer was
given beside the groups may go unread. Of other groups it only asks whether their weights belong to a planned model.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hptransfer.core.declared import optimizer_name
from hptransfer.core.errors import HalfApplied, UsageError
from hptransfer.core.geometry import OptimizerInfo, class_default, decay_in_group
from hptransfer.core.optimizers import torch_row
from hptransfer.parametrization.apply.marks import plan_of_parameter, unscaled
from hptransfer.parametrization.plan import Plan


@dataclass
class Expected:
    """What groups of one plan and optimizer were made from. given: option -> the values it was given at the base."""

    info: OptimizerInfo
    beta_power: float
    given: dict[str, set[Any]] = field(default_factory=dict[str, "set[Any]"])


_expected: dict[tuple[str, str], Expected] = {}
"""(plan fingerprint, optimizer name) -> what to hold its groups against; of this process."""
_grouped: weakref.WeakKeyDictionary[nn.Module, Plan] = weakref.WeakKeyDictionary()
"""Model -> the plan that groups of its parameters were made for, until its first step."""
_seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
_hook: list[Any] = []


def guard(model: nn.Module | None, plan: Plan, info: OptimizerInfo, **given: Any) -> None:
    """Hold groups of this plan's to its rules from now on. given: the base's values of lr and others."""
    expected = _expected.setdefault((plan.fingerprint, info.name), Expected(info, plan.beta_power))
    for key, value in given.items():
        expected.given.setdefault(key, set()).add(value)
    if model is not None:
        _grouped[model] = plan
    start()


def start() -> None:
    """Put the hook on all optimizers, once."""
    if not _hook:
        _hook.append(register_optimizer_step_pre_hook(_check))


def _check(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Refuse a step with groups that no longer are what their plan says."""
    if torch.compiler.is_compiling():  # a compiled step would be specialised on the values read here
        return
    first = optimizer not in _seen
    bases: dict[str | None, float] = {}
    planned = False
    for group in optimizer.param_groups:
        expected = _expected.get((group.get("hpt_plan", ""), group.get("hpt_optimizer", "")))
        planned = planned or "lr_mult" in group
        if expected is not None:
            _check_flags(optimizer, group, expected)
            if first:
                _check_unread(optimizer, group, expected)
        _check_rate(group, bases)
    if first:
        _seen.add(optimizer)
        (_check_scaled if planned else _check_own)(optimizer)


def _check_rate(group: Mapping[str, Any], bases: dict[str | None, float]) -> None:
    multiplier, lr = group.get("lr_mult"), group["lr"]
    if multiplier is None or multiplier == 0 or (isinstance(lr, Tensor) and lr.device.type != "cpu"):
        return
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


def _check_flags(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], expected: Expected) -> None:
    """The options in a group that change a rule."""
    info = expected.info
    for key, planned, present in _flags(group, expected):
        if planned != present:
            raise UsageError(
                f"{optimizer_name(optimizer)} steps the group with {(group.get('hpt_names') or ['?'])[0]!r} with {key}="
                f"{present!r}, but the plan was made for {info.name} with {planned!r}. Pass the option to make_plan, "
                f"too, as optimizer_options, or leave it out here."
            )


def _flags(group: Mapping[str, Any], expected: Expected) -> list[tuple[str, Any, Any]]:
    """(option, what the plan was made for, what the group holds), as far as the group says."""
    info, found = expected.info, list[tuple[str, Any, Any]]()
    told = decay_in_group(group)
    if told is not None and "l2" in {told[1], info.decay}:  # a declared "fixed" is not what a flag of the parent says
        found.append((told[0], info.decay, told[1]))
    row = torch_row(info.name)  # only torch's own class has this option; a declared factor is the user's word
    if row is not None and row.shape_option in group and info.shape_factor in row.shape_choices.values():
        value = group[row.shape_option]
        found.append((row.shape_option, info.shape_factor, row.shape_choices.get(value, value)))
    if expected.beta_power != 1:
        powers = {} if info.betas is None else {"betas": tuple(beta**expected.beta_power for beta in info.betas)}
        powers |= {key: value**expected.beta_power for key, value in info.averages}
        found += [(key, value, _plain(group[key])) for key, value in powers.items() if key in group]
    return found


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_unread(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], expected: Expected) -> None:
    """What was given to the optimizer itself while every group holds a value of its own."""
    for key, values in expected.given.items():
        default = _plain(optimizer.defaults.get(key))
        pair = key == "eps" and isinstance(default, tuple)  # of a relative step: compared where it is built
        if key not in group or default is None or pair or isinstance(default, Tensor) or default in values:
            continue
        if default != class_default(type(optimizer), key):
            raise UsageError(
                f"{optimizer_name(optimizer)} was given {key}={default!r}, but nothing reads it: the plan's groups "
                f"carry a {key} each, made from {', '.join(map(repr, values))}. Give it to hptransfer.param_groups "
                f"(betas and the like to make_plan, as optimizer_options) instead."
            )


def _check_scaled(optimizer: torch.optim.Optimizer) -> None:
    """Planned groups over weights that no plan has scaled, as they stand before the first step."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for model, plan in list(_grouped.items()):
        if any(id(p) in stepped for p in model.parameters()):
            del _grouped[model]
            missing = unscaled(model, plan)
            if missing is not None:
                _warn(
                    f"{optimizer_name(optimizer)} steps groups of plan {plan.fingerprint}, but the model's weights "
                    f"were not scaled for it: {missing}. Half a plan transfers nothing. Call hptransfer.parametrize_("
                    "model, plan) before training; with init=False where the weights were trained under this plan."
                )


def _check_own(optimizer: torch.optim.Optimizer) -> None:
    """Groups without multipliers over weights that a plan has scaled."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            plan = plan_of_parameter(parameter)
            if plan is not None:
                _warn(
                    f"{optimizer_name(optimizer)} trains a model whose weights were scaled for plan {plan}, but its "
                    f"groups carry none of the plan's learning rates: half a plan transfers nothing. Make the groups "
                    f"with hptransfer.param_groups, or give an optimizer that stands to hptransfer.apply_plan."
                )
                return


def _warn(text: str) -> None:
    warnings.warn(text, HalfApplied, stacklevel=6)  # where the user calls step
