"""The plan inside a trainer that builds the optimizer itself: transformers.Trainer. No library is imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hptransfer.core.declared import optimizer_name
from hptransfer.core.errors import UsageError
from hptransfer.parametrization.apply.marks import mark, unscaled
from hptransfer.parametrization.apply.optimizers import build_optimizers
from hptransfer.parametrization.apply.rewrite import parametrize_
from hptransfer.parametrization.plan import Plan


class PlanTrainer:
    """A mixin: `class MyTrainer(PlanTrainer, transformers.Trainer)`, then MyTrainer(..., plan=plan).

    The learning rate, weight decay and optimizer of the training arguments are the base's; weight decay spares what the
    Trainer spares (biases and norms). A model that the Trainer is given must be parametrized already; one from
    model_init is parametrized here. plan: a Plan, or model -> Plan where model_init builds several sizes.
    Works under DDP and FSDP: the groups are made from the wrapped model's parameters where the Trainer wraps first. The
    optimizer's saved state is verified by the plan's fingerprint when training is resumed.
    """

    # of transformers.Trainer
    args: Any
    model: Any
    optimizer: Any
    _at_start: str | None = None
    optimizer_cls_and_kwargs: Any
    get_optimizer_cls_and_kwargs: Callable[..., tuple[Any, dict[str, Any]]]
    get_decay_parameter_names: Callable[[nn.Module], list[str]]

    def __init__(self, *args: Any, plan: Plan | Callable[[nn.Module], Plan], **kwargs: Any) -> None:
        self.plan = plan
        super().__init__(*args, **kwargs)
        model = getattr(self, "model", None)
        self._at_start = None if model is None else unscaled(model, self._plan(model))

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Build the model as the Trainer does, and parametrize it."""
        model: nn.Module = super().call_model_init(trial)  # type: ignore[misc]
        parametrize_(model, self._plan(model))
        return model

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's own choice of optimizer, over the plan's groups."""
        if self.optimizer is None:
            target = self.model if model is None else model
            cls, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, target)
            if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or "params" in options:
                raise UsageError(f"optim={self.args.optim!r} builds its own groups, so no plan can set them.")
            decayed = _parameters(target, self.get_decay_parameter_names(target))
            options = {**options, "weight_decay": self.args.weight_decay}
            plan = self._plan(target)
            known = _same(plan, cls)
            self._refuse_unscaled(target, plan)
            self.optimizer = build_optimizers(target, plan, {known: options}, decay=lambda _, p: id(p) in decayed)
        return self.optimizer

    def _refuse_unscaled(self, model: nn.Module, plan: Plan) -> None:
        """Raise UsageError on a model whose weights no plan has scaled, unless a checkpoint's have replaced them."""
        missing = unscaled(model, plan)
        if missing is not None and missing == self._at_start:
            raise UsageError(
                f"PlanTrainer was given a model whose weights were not scaled: {missing}. Call "
                "hptransfer.parametrize_(model, plan) first, with init=False where they were trained under this plan; "
                "or give model_init, which is parametrized here."
            )
        if missing is not None:
            mark(model, plan)

    def _plan(self, model: nn.Module) -> Plan:
        return self.plan if isinstance(self.plan, Plan) else self.plan(model)


def _parameters(model: nn.Module, names: list[str]) -> set[int]:
    chosen = set(names)
    return {id(parameter) for name, parameter in model.named_parameters() if name in chosen}


def _same(plan: Plan, cls: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    if optimizer_name(cls) not in plan.optimizers:
        raise UsageError(
            f"The Trainer trains with {cls.__name__} (args.optim), but the plan was made for "
            f"{' and '.join(plan.optimizers)}. Make the plan with optimizer={cls.__name__}."
        )
    return cls
