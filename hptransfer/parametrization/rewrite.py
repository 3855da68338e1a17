"""parametrize_: give a model's initial weights the scale that its plan asks for, in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hptransfer.core.errors import UsageError
from hptransfer.parametrization.measure import rms
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row
from hptransfer.parametrization.wrappers import plain_modules, plain_names


@dataclass(frozen=True)
class Change:
    """What `parametrize_` did to one parameter: its values were multiplied by factor. rms: before and after."""

    name: str
    factor: float
    rms_before: float
    rms_after: float


def parametrize_(model: nn.Module, plan: Plan, *, init: bool = True) -> list[Change]:
    """Scale the initial weights in place so that their rms is the plan's, and register the plan's hooks if it has any.

    Values keep their distribution; zeros stay zero; at the base's own size nothing changes, bit for bit. Where the
    model's own init already follows a power of the width, the factor is that power's exact ratio, not a noisy estimate.
    init: False leaves the values alone and only registers hooks and multipliers, for weights loaded from a checkpoint.
    Returns the parameters that changed. Works on sharded (DTensor) and on compiled or DDP-wrapped models.
    Raises UsageError where the model does not match the plan, is on meta, or already carries the plan's hooks.
    """
    parameters = plain_names(model, plan)
    factors = {n: _factor(p, plan.rows[n]) for n, p in parameters.items()} if init else {}
    changes: list[Change] = []
    with torch.no_grad():
        for name, (factor, before) in factors.items():
            if factor != 1.0:
                parameters[name].mul_(factor)
                changes.append(Change(name, factor, before, before * factor))
    _register_hooks(model, plan)
    _register_multipliers(model, plan)
    return changes


def _factor(parameter: nn.Parameter, row: Row) -> tuple[float, float]:
    """(factor on the present values, their rms)."""
    if row.role == "unused" or (row.init_std is None and row.init_mult == 1.0 and row.shape == row.base_shape):
        return 1.0, 0.0
    if parameter.device.type == "meta":
        raise UsageError(
            f"{row.name!r} is on the meta device, so it has no values to scale. Materialise and initialise the model "
            f"first (to_empty, then its own init), then call parametrize_."
        )
    present = rms(parameter)
    if not math.isfinite(present):
        raise UsageError(f"{row.name!r} holds values that are not finite; initialise the model before parametrize_.")
    if row.init_std is None:
        if row.why and row.why[0].startswith("SP control"):
            return 1.0, present
        raise UsageError(
            f"The plan has no initial std for {row.name!r}: its base was on meta. Make the plan with a real base, or "
            f"pass base_std={{name: rms}} to make_plan."
        )
    if present == 0.0 or row.init_std == 0.0:
        return (1.0 if present == 0.0 else 0.0), present
    base = row.init_std / row.init_mult
    return row.init_mult / _own_ratio(present / base, row), present


def _own_ratio(measured: float, row: Row) -> float:
    """target/base ratio of the model's own init: an exact power of the width where the sample agrees with one.

    A sample of N values has a relative standard error of about (2N)^-1/2 in its rms; agreement means within four.
    """
    if measured == 0.0:
        return measured
    numel, base_numel = math.prod(row.shape), math.prod(row.base_shape)
    tolerance = 4 * ((2 * numel) ** -0.5 + (2 * base_numel) ** -0.5)
    fans = (row.m_in * row.m_out) ** 0.5
    laws = {1.0, row.init_mult, row.m_in**-0.5, row.m_in**-1.0, row.m_out**-0.5, fans**-0.5, fans**-1.0}
    near = [law for law in laws if abs(measured / law - 1) <= tolerance]
    return min(near, key=lambda law: abs(math.log(measured / law))) if near else measured


class _Multiply:
    """A hook that multiplies a module's first input or its output by a constant. Picklable and copyable."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> Any:
        if output is None:
            return (args[0] * self.factor, *args[1:])
        return (output[0] * self.factor, *output[1:]) if isinstance(output, tuple) else output * self.factor


def _register_hooks(model: nn.Module, plan: Plan) -> None:
    modules = plain_modules(model)
    for hook in plan.hooks:
        module = modules.get(hook.module)
        if module is None:
            raise UsageError(f"The plan hooks module {hook.module!r}, which the model does not have.")
        present = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        if any(isinstance(h, _Multiply) and h.factor == hook.factor for h in present):
            raise UsageError(f"{hook.module!r} already carries this plan's multiplier: parametrize_ was called twice.")
        if hook.where == "input":
            module.register_forward_pre_hook(_Multiply(hook.factor))
        else:
            module.register_forward_hook(_Multiply(hook.factor))


class _Times(nn.Module):
    """A parameter's forward multiplier: the model computes with factor x the stored values."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: Tensor) -> Tensor:
        return self.factor * values


def _register_multipliers(model: nn.Module, plan: Plan) -> None:
    """Forward multipliers of a plan in its un-absorbed form, by torch's own parametrizations (which rename keys)."""
    modules = plain_modules(model)
    for name in [*plan.rows, *plan.aliases]:
        row = plan[name]
        owner, _, attribute = name.rpartition(".")
        if row.fwd_mult != 1.0:
            parametrize.register_parametrization(modules[owner], attribute, _Times(row.fwd_mult), unsafe=True)
