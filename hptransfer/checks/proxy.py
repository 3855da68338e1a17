"""Proxies: a recipe's model at one width, parametrized against the recipe's base and ready to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.recipe import Recipe, Scale
from hptransfer.core.seeding import seeded, seeded_model
from hptransfer.parametrization.apply.optimizers import build_optimizers
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.parametrization.make import make_plan
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan


@dataclass(frozen=True)
class Proxy:
    """A parametrized model on its device, with the plan and the optimizer that train it as the base would be."""

    scale: Scale
    seed: int
    model: nn.Module
    plan: Plan
    optimizer: torch.optim.Optimizer


class Proxies:
    """Makes the proxies of one recipe under one scheme; the plan of a width is made once and shared by its seeds.

    lr: the base's learning rate, held constant; changes: replace single optimizer options of the recipe.
    Raises UsageError, from make_plan, where the scheme is unknown or the model cannot be planned.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        scheme: str,
        lr: float,
        device: str | torch.device = "cpu",
        options: Options | None = None,
        changes: dict[str, Any] | None = None,
    ) -> None:
        self.recipe, self.scheme, self.lr, self.device, self.options = recipe, scheme, lr, device, options
        self.optimizer_options = {**recipe.optimizer_options, **(changes or {})}
        self.plans: dict[int, Plan] = {}

    def __call__(self, width: int, seed: int) -> Proxy:
        """The proxy of one width, its weights drawn from `seed`."""
        scale = self.recipe.base.with_(width=width)
        model = seeded_model(self.recipe, scale, seed)
        plan = self.plan(width)
        parametrize_(model, plan)
        model.to(self.device).train()
        return Proxy(scale, seed, model, plan, self.optimizer(model, plan))

    def plan(self, width: int) -> Plan:
        """The plan of one width against the recipe's base."""
        if width not in self.plans:
            self.plans[width] = make_plan(
                seeded_model(self.recipe, self.recipe.base.with_(width=width), 0),
                base=seeded_model(self.recipe, self.recipe.base, 0),
                example_inputs=inputs_for(self.recipe, self.options),
                scheme=self.scheme,
                optimizer=self.recipe.optimizer,
                optimizer_options=self.optimizer_options,
                options=self.options,
            )
        return self.plans[width]

    def optimizer(self, model: nn.Module, plan: Plan) -> torch.optim.Optimizer:
        """The recipe's optimizer on the plan's groups, at the constant learning rate."""
        return build_optimizers(model, plan, {self.recipe.optimizer: {**self.optimizer_options, "lr": self.lr}})


def inputs_for(recipe: Recipe, options: Options | None) -> Sequence[Any] | Mapping[str, Any]:
    """Arguments of one forward call to plan with: the recipe's own, or for a unit forward those of a training batch.

    A recipe's example inputs may be zeros, which trace a model and measure nothing.
    Raises UsageError where the recipe's loss does not call the model, or with positional and keyword arguments.
    """
    if options is None or options.forward == "own":
        return recipe.example_inputs()
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    model = seeded_model(recipe, recipe.base, 0)
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    with torch.no_grad(), seeded(None):
        recipe.loss(model, next(iter(recipe.batches(recipe.base, 0))))
    args, kwargs = seen[0] if seen else ((), {})
    if bool(args) == bool(kwargs):
        raise UsageError(
            f"Options(forward='unit') measures what the loss of recipe {recipe.name!r} gives its model, but it was "
            f"given {len(args)} positional and {len(kwargs)} keyword arguments. Call the model with one kind."
        )
    return args or kwargs


def checked_widths(widths: Sequence[int], *, least: int = 3) -> tuple[int, ...]:
    """The widths, distinct and rising. Raises UsageError where they are not whole, not positive or too few."""
    for width in widths:
        if not isinstance(width, Integral) or isinstance(width, bool) or width < 1:
            raise UsageError(f"width {width!r}: must be a whole number >= 1.")
    found = tuple(sorted({int(w) for w in widths}))
    if len(found) < least:
        raise UsageError(
            f"widths={list(widths)}: {len(found)} distinct, but a slope with an interval needs at least {least}; "
            f"give for example {_example(found)}."
        )
    return found


def _example(found: Sequence[int]) -> str:
    first = found[0] if found else 64
    return ",".join(str(first * 2**k) for k in range(4))


def checked_count(name: str, value: int, *, least: int) -> int:
    """A whole number >= least. Raises UsageError otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}={value!r}: must be a whole number >= {least}.")
    return int(value)


def checked_lr(recipe: Recipe, lr: float | None) -> float:
    """The learning rate given, or the middle of the recipe's. Raises UsageError where it is absent or not positive."""
    if lr is None:
        if not recipe.lrs:
            raise UsageError(f"Recipe {recipe.name!r} has no lrs to take the middle of; pass lr=.")
        return float(sorted(recipe.lrs)[len(recipe.lrs) // 2])
    if not (isinstance(lr, (int, float)) and math.isfinite(lr) and lr > 0):
        raise UsageError(f"lr={lr!r}: must be a positive finite number.")
    return float(lr)
