"""Proxies: a recipe's model at one width, parametrized against the recipe's base and ready to train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hptransfer.checks.planned import PlannedModels
from hptransfer.core.training.recipe import Recipe, Scale
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
    """Makes the proxies of one recipe under one scheme.

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
        self.scheme, self.lr = scheme, lr
        settings = {**recipe.optimizer_options, **(changes or {})}
        choices = {} if options is None else {"options": options}
        self.models = PlannedModels(recipe, device=str(device), optimizer_options=settings, plan_options=choices)

    def __call__(self, width: int, seed: int) -> Proxy:
        """The proxy of one width, its weights drawn from `seed`."""
        scale, plan = self.models.recipe.base.with_(width=width), self.plan(width)
        model = self.models.model(plan, scale, seed=seed).train()
        groups = self.models.groups(plan, model, lr=self.lr)
        return Proxy(scale, seed, model, plan, self.models.optimizer(groups))

    def plan(self, width: int) -> Plan:
        """The plan of one width against the recipe's base."""
        return self.models.plan(self.scheme, self.models.recipe.base.with_(width=width))
