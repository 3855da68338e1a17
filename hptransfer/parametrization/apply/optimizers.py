"""build_optimizers: one call from a plan to its optimizer, or to the two that a mixed plan trains with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.core.declared import optimizer_name
from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import OptimizerInfo, class_default
from hptransfer.parametrization.apply.checkpoint import attach
from hptransfer.parametrization.apply.groups import param_groups
from hptransfer.parametrization.plan import Plan

Settings = Mapping[type[torch.optim.Optimizer], Mapping[str, Any]]


def build_optimizers(
    model: nn.Module, plan: Plan, settings: Settings, *, decay: Callable[[str, Tensor], bool] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of a plan, its load_state_dict guarded by the plan's fingerprint (see checkpoint.attach).

    settings: optimizer class -> its keyword options at the base, as its constructor takes them (lr is needed), for each
    optimizer of the plan: {torch.optim.Muon: {"lr": 0.02}, torch.optim.AdamW: {"lr": 3e-3, "betas": (0.9, 0.95)}}.
    decay: (name, parameter) -> whether weight decay applies; all by default.
    Returns that optimizer, or `Optimizers` where there are two: one step, zero_grad and state_dict over both.
    Raises UsageError where the classes or the options that change the rules are not the plan's.
    """
    named = {optimizer_name(cls): cls for cls in settings}
    if set(named) != set(plan.optimizers):
        raise UsageError(
            f"settings are for {', '.join(named) or 'no optimizer'}, but this plan trains with "
            f"{' and '.join(plan.optimizers)}. Give one entry for each, or make the plan with optimizer=."
        )
    built = [_build(model, plan, named[name], settings[named[name]], decay) for name in plan.optimizers]
    return built[0] if len(built) == 1 else Optimizers(built)


def _build(
    model: nn.Module,
    plan: Plan,
    cls: type[torch.optim.Optimizer],
    options: Mapping[str, Any],
    decay: Callable[[str, Tensor], bool] | None,
) -> torch.optim.Optimizer:
    info = _agreeing(plan, cls, options)
    if "lr" not in options:
        raise UsageError(f"{info.name} needs an lr: the one tuned at the base.")
    wd = options.get("weight_decay", class_default(cls, "weight_decay") or 0.0)
    eps = info.default_eps if "eps" in options else None
    own = {"lr", "weight_decay"} | ({"eps"} if plan.optimizers[info.name].default_eps is not None else set())
    groups = param_groups(model, plan, lr=options["lr"], weight_decay=wd, eps=eps, decay=decay, optimizer=cls)
    if not groups:
        raise UsageError(f"No trainable parameter of this model is trained by {info.name}; make the plan without it.")
    # the base's lr as the default too: schedulers and loggers may read it
    optimizer = cls(groups, **{"lr": options["lr"], **{k: v for k, v in options.items() if k not in own}})  # type: ignore[call-arg]
    attach(plan, optimizer)
    return optimizer


def _agreeing(plan: Plan, cls: type[torch.optim.Optimizer], options: Mapping[str, Any]) -> OptimizerInfo:
    """What is known of the optimizer under these options, which must be what the plan's rules were derived for."""
    given, planned = OptimizerInfo.of(cls, options), plan.optimizers[optimizer_name(cls)]
    free: dict[str, Any] = {"default_eps": None} | ({"betas": None, "averages": ()} if plan.beta_power == 1 else {})
    theirs, ours = replace(given, **free), replace(planned, **free)
    changed = [f.name for f in fields(OptimizerInfo) if getattr(theirs, f.name) != getattr(ours, f.name)]
    if changed:
        shown = ", ".join(f"{key} {getattr(ours, key)!r} became {getattr(theirs, key)!r}" for key in changed)
        raise UsageError(
            f"The options of {given.name} change its rules against the plan's: {shown}. Pass them to make_plan as "
            "optimizer_options, too."
        )
    return given


class Optimizers(torch.optim.Optimizer):
    """Several optimizers that step as one.

    inner: the optimizers. param_groups are theirs, the same dicts, so one LambdaLR drives all; a scheduler may also be
    given to each inner one. state_dict: class name -> the inner state. No closure is run twice.
    """

    def __init__(self, inner: Sequence[torch.optim.Optimizer]) -> None:
        # not Optimizer.__init__: it would make groups of its own; __setstate__ sets up the hooks that schedulers need
        super().__setstate__({"inner": tuple(inner), "defaults": {}})

    inner: tuple[torch.optim.Optimizer, ...]

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all inner optimizers, in order."""
        return [group for optimizer in self.inner for group in optimizer.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        """Parameter -> state, of all inner optimizers."""
        return {p: s for optimizer in self.inner for p, s in optimizer.state.items()}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of every inner optimizer, after one evaluation of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.inner:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        for optimizer in self.inner:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Class name -> state of that optimizer."""
        return {type(optimizer).__name__: optimizer.state_dict() for optimizer in self.inner}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Load what `state_dict` gave. Raises UsageError where it is not of the same optimizers and plan."""
        names = [type(optimizer).__name__ for optimizer in self.inner]
        if set(state_dict) != set(names):
            raise UsageError(f"The state is of {', '.join(state_dict)}, but the optimizers are {', '.join(names)}.")
        for optimizer in self.inner:
            optimizer.load_state_dict(dict(state_dict[type(optimizer).__name__]))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: add it to one of the inner optimizers."""
        raise UsageError("Add the group to one of the inner optimizers: optimizers.inner[k].add_param_group(group).")

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner, "defaults": {}}

    def __repr__(self) -> str:
        return "Optimizers(" + ", ".join(type(optimizer).__name__ for optimizer in self.inner) + ")"
