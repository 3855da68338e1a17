"""A recipe's models as they are trained: built from a seed, parametrized by a plan, with the recipe's optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import class_default
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.core.training.seeding import seeded, seeded_model
from hptransfer.parametrization.apply.groups import param_groups
from hptransfer.parametrization.apply.optimizers import Optimizers
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.parametrization.make import make_plan
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan


class PlannedModels:
    """The models of one recipe on one device; the plan of a (scheme, scale) is made once and shared by its seeds.

    optimizer_options: in place of the recipe's. plan_options: further keyword arguments of make_plan.
    Raises UsageError, from its methods, where a scale cannot be built or planned.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        device: str = "cpu",
        optimizer_options: Mapping[str, Any] | None = None,
        plan_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe, self.device = recipe, device
        self.optimizer_options = dict(recipe.optimizer_options if optimizer_options is None else optimizer_options)
        self.plan_options = dict(plan_options or {})
        self.plans: dict[tuple[str, Scale], Plan] = {}
        self._base: nn.Module | None = None

    def plan(self, scheme: str, scale: Scale, plan_options: Mapping[str, Any] | None = None) -> Plan:
        """The plan of a scale against the recipe's base. plan_options: in place of those of all schemes."""
        if (scheme, scale) not in self.plans:
            choices = dict(self.plan_options if plan_options is None else plan_options)
            if self._base is None:
                self._base = self.build(self.recipe.base, seed=0)
            self.plans[scheme, scale] = make_plan(
                self.sketch(scale),
                base=self._base,
                example_inputs=inputs_for(self.recipe, choices.get("options")),
                scheme=scheme,
                optimizer=self.recipe.optimizer,
                optimizer_options=self.optimizer_options,
                **{"scale": scale, "base_scale": self.recipe.base, **choices},
            )
        return self.plans[scheme, scale]

    def sketch(self, scale: Scale) -> nn.Module:
        """The model without memory for its weights, where it can be built so."""
        return sketched(lambda: self.build(scale, seed=0))

    def build(self, scale: Scale, *, seed: int) -> nn.Module:
        """A freshly initialised model on CPU, drawn from `seed`."""
        return seeded_model(self.recipe, scale, seed)

    def model(self, plan: Plan | None, scale: Scale, *, seed: int) -> nn.Module:
        """A model drawn from `seed`, parametrized where there is a plan, on the device."""
        model = self.build(scale, seed=seed)
        if plan is not None:
            parametrize_(model, plan)
        return model.to(self.device)

    def groups(self, plan: Plan | None, model: nn.Module, *, lr: float) -> list[dict[str, Any]]:
        """Optimizer groups at the base's learning rate; one group of all parameters where there is no plan."""
        if plan is None:
            return self._unplanned(model, lr)
        return [
            group
            for part, cls in self.recipe.optimizers.items()
            for group in param_groups(
                model, plan, optimizer=cls, decay=self.recipe.decays, **self.base_values(part, cls, lr)
            )
        ]

    def _unplanned(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """One group of all parameters, or two where weight decay applies to some of them only."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        decays = self.recipe.decays
        if decays is None:
            return [{"params": list(trained.values()), "lr": lr}]
        decayed = [p for name, p in trained.items() if decays(name, p)]
        rest = [p for name, p in trained.items() if not decays(name, p)]
        groups = [{"params": decayed, "lr": lr}, {"params": rest, "lr": lr, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def base_values(self, part: str, cls: type[torch.optim.Optimizer], lr: float) -> dict[str, Any]:
        """What one optimizer is given at the base. lr: of hidden matrices in a pair, else of all."""
        given, hidden = self._options(part), self._options("hidden")
        ratio = given.get("lr", 1.0) / hidden.get("lr", 1.0) if self.pair else 1.0
        decay = given.get("weight_decay", class_default(cls, "weight_decay") or 0.0)
        return {"lr": lr * ratio, "weight_decay": decay, "eps": given.get("eps")}

    def _options(self, part: str) -> dict[str, Any]:
        """The keyword options of one optimizer."""
        return dict(self.optimizer_options.get(part, {})) if self.pair else self.optimizer_options

    @property
    def pair(self) -> bool:
        """Whether two optimizers train."""
        return len(self.recipe.optimizers) > 1

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The recipe's optimizer, or its pair, on groups that carry their own lr."""
        if not self.pair:
            return self.recipe.one_optimizer(groups, **self.optimizer_options)
        inner: list[torch.optim.Optimizer] = []
        for part, cls in self.recipe.optimizers.items():
            own = [group for group in groups if group["hpt_optimizer"] == cls.__name__]
            options = {key: value for key, value in self._options(part).items() if key != "lr"}
            inner += [cls(own, **options)] if own else []  # type: ignore[call-arg]
        return Optimizers(inner)


def sketched(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` returns, built on meta; with its weights where it cannot be built there."""
    try:
        with torch.device("meta"):
            return build()
    except Exception:
        return build()


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
