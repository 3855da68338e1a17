"""parametrize_: give a model's initial weights the scale that its plan asks for, in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from hptransfer.core.errors import UsageError
from hptransfer.parametrization.apply.guard import start
from hptransfer.parametrization.apply.marks import mark
from hptransfer.parametrization.apply.wrappers import plain_modules, plain_names
from hptransfer.parametrization.init.initial import initial_factors
from hptransfer.parametrization.plan import Plan


@dataclass(frozen=True)
class Change:
    """What `parametrize_` did to one parameter: its values were multiplied by factor. rms: before and after."""

    name: str
    factor: float
    rms_before: float
    rms_after: float


def parametrize_(model: nn.Module, plan: Plan, *, init: bool = True) -> list[Change]:
    """Scale the initial weights in place so that their rms is the plan's, and register the plan's hooks if it has any.

    Values keep their distribution; zeros stay zero; at the base's own size nothing changes, bit for bit, unless the
    plan's options set initial weights there (readout_init, forward). Where the model's own init already follows a power
    of the width, the factor is that power's exact ratio, not a noisy estimate.
    init: False leaves the values alone and only registers hooks and multipliers, for weights loaded from a checkpoint.
    Returns the parameters that changed. Works on sharded (DTensor) and on compiled or DDP-wrapped models.
    Raises UsageError where the model does not match the plan, is on meta, or already carries the plan's hooks.
    """
    parameters = plain_names(model, plan)
    hooked = _free_modules(model, plan)
    factors = initial_factors(parameters, plan) if init else {}
    changes: list[Change] = []
    with torch.no_grad():
        for name, (factor, before) in factors.items():
            if factor != 1.0:
                parameters[name].mul_(factor)
                changes.append(Change(name, factor, before, before * factor))
    _register_hooks(hooked, plan)
    _register_multipliers(model, plan)
    mark(model, plan)
    start()
    return changes


class _Multiply:
    """A hook that multiplies the one tensor that a module takes or returns by a constant. Picklable and copyable."""

    def __init__(self, factor: float, module: str) -> None:
        self.factor, self.module = factor, module

    def on_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = self.only([*args, *kwargs.values()])
        return pytree.tree_map(lambda v: v * self.factor if v is values else v, (args, kwargs))

    def on_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        values = self.only(pytree.tree_leaves(output))
        return pytree.tree_map(lambda v: v * self.factor if v is values else v, output)

    def only(self, candidates: Sequence[Any]) -> Tensor:
        """The one floating-point tensor among them."""
        found = [v for v in candidates if isinstance(v, Tensor) and v.is_floating_point()]
        if len(found) != 1:
            raise UsageError(
                f"{self.module!r} carries a multiplier for one tensor, but was given or made {len(found)}."
            )
        return found[0]


def _free_modules(model: nn.Module, plan: Plan) -> list[nn.Module]:
    """The modules that the plan's hooks go to. Raises UsageError where one is missing or carries its hook already."""
    modules, found = plain_modules(model), []
    for hook in plan.hooks:
        module = modules.get(hook.module)
        if module is None:
            raise UsageError(f"The plan hooks module {hook.module!r}, which the model does not have.")
        present = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        if any(isinstance(getattr(h, "__self__", None), _Multiply) for h in present):
            raise UsageError(f"{hook.module!r} already carries this plan's multiplier: parametrize_ was called twice.")
        found.append(module)
    return found


def _register_hooks(modules: Sequence[nn.Module], plan: Plan) -> None:
    for hook, module in zip(plan.hooks, modules, strict=True):
        multiply = _Multiply(hook.factor, hook.module)
        if hook.where == "input":
            module.register_forward_pre_hook(multiply.on_input, with_kwargs=True)
        else:
            module.register_forward_hook(multiply.on_output)


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
