"""What the oracle experiments on: a recipe or a builder, its models at several widths, and the plan at each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hptransfer.checks.oracle.gradients import sign_average, tensors_of
from hptransfer.checks.planned import inputs_for
from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe
from hptransfer.core.training.seeding import seeded
from hptransfer.parametrization.make import make_plan
from hptransfer.parametrization.measure import measure_rms
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

Builder = Callable[[int], nn.Module]
_DRAWS = 8
Inputs = Sequence[Any] | Mapping[str, Any]
_RATIOS = (
    "init_mult",
    "lr_mult",
    "wd_mult",
    "eps_mult",
    "fwd_mult",
    "m_in",
    "m_out",
    "scale_mult",
    "grad_mult",
    "held",
)
"""A row's fields that are powers of the sizes."""


@dataclass(frozen=True)
class Subject:
    """A model family: how to build it at a width (or, over_depth, at a depth), feed it, and score one forward pass.

    deepened: depth -> model at the base width, where the builder has a depth, and base_depth the base's.
    batch: seed -> what one pass reads; objective: (model, batch, seed) -> scalar, running the model once.
    """

    name: str
    build: Builder
    inputs: Inputs
    batch: Callable[[int], Any]
    objective: Callable[[nn.Module, Any, int], Tensor]
    base: int | None = None
    optimizer: Any = torch.optim.AdamW
    optimizer_options: Mapping[str, Any] | None = None
    deepened: Builder | None = None
    base_depth: int | None = None

    def over_depth(self) -> Subject:
        """The same family by depth at its base width. Raises UsageError where it is not known how to deepen it."""
        if self.deepened is None or self.base_depth is None:
            raise UsageError("Depth cannot be checked: the base's Scale has no depth.")
        return dataclasses.replace(self, build=self.deepened, base=self.base_depth, deepened=None)

    def model(self, width: int, seed: int) -> nn.Module:
        """A freshly initialised model in training mode, drawn from a seed of its own for every width."""
        with seeded(1_000_003 * seed + width):
            return self.build(width).train()

    def initial_rms(self, width: int) -> dict[str, float]:
        """Parameter -> initial rms over several draws: one draw of a short vector is too noisy to count from."""
        draws = [measure_rms(self.model(width, seed)) for seed in range(_DRAWS)]
        return {name: math.sqrt(sum(draw[name] ** 2 for draw in draws) / _DRAWS) for name in draws[0]}

    def score(self, model: nn.Module, batch: Any, seed: int) -> Tensor:
        """The objective of one pass; dropout masks follow the seed."""
        with seeded(seed):
            return self.objective(model, batch, seed)


def subject_of(source: Recipe | Builder, example_inputs: Inputs, options: Options | None = None) -> Subject:
    """A recipe is scored by its own loss on its batches; a builder by a random-sign average of its model's outputs.

    options: of its plans; a unit forward is measured on a training batch, see proxy.inputs_for.
    Raises UsageError where a builder comes without example inputs, or source is neither.
    """
    if isinstance(source, Recipe):
        recipe: Recipe = source
        return Subject(
            recipe.name,
            lambda width: recipe.build(recipe.base.with_(width=width)),
            inputs_for(recipe, options),
            lambda seed: next(recipe.batches(recipe.base, seed)),
            lambda model, batch, seed: recipe.loss(model, batch),
            recipe.base.width,
            recipe.optimizer,
            recipe.optimizer_options,
            None if recipe.base.depth is None else lambda depth: recipe.build(recipe.base.with_(depth=depth)),
            recipe.base.depth,
        )
    if not callable(source):
        raise UsageError(f"verify_plan takes a Recipe or a builder (width -> model), but got {type(source).__name__}.")
    if not example_inputs:
        raise UsageError("verify_plan with a builder needs example_inputs, the arguments of one forward call.")

    def objective(model: nn.Module, batch: Any, seed: int) -> Tensor:
        out = model(**batch) if isinstance(batch, Mapping) else model(*batch)
        return sign_average(tensors_of(out), seed)

    name = getattr(source, "__name__", "model")
    return Subject(name, source, example_inputs, lambda seed: example_inputs, objective)


def plans_by_width(
    subject: Subject, widths: Sequence[int], base: int, given: Plan | None, **choices: Any
) -> dict[int, Plan]:
    """The plan at every width: the given plan's exponents, or those of a plan made at the widest, taken to each.

    Where a plan is no power of the widths, because it asks for something at the base already, one is made at each.
    """
    base_model, stds = subject.model(base, 0), subject.initial_rms(base)

    def planned(width: int) -> Plan:
        model, inputs = subject.model(width, 0), subject.inputs
        return make_plan(model, base=base_model, example_inputs=inputs, base_std=stds, **choices)

    if given is None:
        widest = planned(max(widths))
        if not _is_power(widest) or max(widths) <= base:
            return {width: widest if width == max(widths) else planned(width) for width in widths}
        given = widest
    return {width: rescaled(given, subject.model(width, 0), base_model, stds) for width in widths}


def _is_power(plan: Plan) -> bool:
    """All multipliers are 1 at the base: a unit forward and weights stored at unit rms ask for others there."""
    return plan.options.get("forward") == "own" and all(row.fwd_mult == 1.0 for row in plan)


def plans_by_depth(subject: Subject, depths: Sequence[int], **choices: Any) -> dict[int, Plan]:
    """The plan at every depth, each made against the base's. subject: by depth."""
    assert subject.base is not None
    base_model, stds = subject.model(subject.base, 0), subject.initial_rms(subject.base)
    deepest, *rest = sorted(depths, reverse=True)

    def planned(depth: int) -> Plan:
        model, inputs = subject.model(depth, 0), subject.inputs
        return make_plan(model, base=base_model, example_inputs=inputs, base_std=stds, **choices)

    plan = planned(deepest)
    if not _is_power(plan) or deepest <= subject.base:
        return {depth: plan if depth == deepest else planned(depth) for depth in depths}
    shallower = {
        d: _shallower(plan, subject.model(d, 0), math.log(d / subject.base, deepest / subject.base)) for d in rest
    }
    return {**{d: shallower[d] for d in sorted(rest)}, deepest: plan}


def _shallower(plan: Plan, model: nn.Module, power: float) -> Plan:
    """The plan's exponents at another depth, of whose layers it has more."""
    names = dict(model.named_parameters())
    rows = {name: _powered(row, power) for name, row in plan.rows.items() if name in names}
    modules = dict(model.named_modules())
    hooks = tuple(dataclasses.replace(h, factor=h.factor**power) for h in plan.hooks if h.module in modules)
    return dataclasses.replace(plan, rows=rows, hooks=hooks)


def _powered(row: Row, power: float) -> Row:
    changed = {f: value**power for f in _RATIOS if (value := getattr(row, f)) > 0}
    std = None if row.init_std is None or not row.init_mult else row.init_std * changed["init_mult"] / row.init_mult
    return dataclasses.replace(row, init_std=std if row.init_mult else row.init_std, **changed)


def rescaled(plan: Plan, model: nn.Module, base: nn.Module, stds: Mapping[str, float]) -> Plan:
    """A plan of one target taken to another width: every multiplier keeps its exponent in its parameter's own growth.

    stds: the base's initial rms by parameter.
    Raises UsageError where the plan's parameters are not the model's, or its target is no wider than its base.
    """
    named, base_named = dict(model.named_parameters()), dict(base.named_parameters())
    if set(named) != set(plan.rows) or set(base_named) != set(plan.rows):
        odd = sorted(set(plan.rows) ^ set(named))[:3]
        raise UsageError(
            f"The plan's parameters are not those of this model (for example {odd}). Verify a plan at its own depth, "
            f"or leave plan out to verify what make_plan makes of the same model at small widths."
        )
    widest = max((_growth(row.shape, row.base_shape) for row in plan), default=1.0)
    if widest <= 1.0:
        raise UsageError(
            "This plan's target is as wide as its base, so it has no exponents; give a plan for a wider one."
        )
    rows = {
        name: _row_at(row, tuple(named[name].shape), tuple(base_named[name].shape), widest, stds[name])
        for name, row in plan.rows.items()
    }
    now = max(_growth(row.shape, row.base_shape) for row in rows.values())
    power = math.log(now) / math.log(widest)
    hooks = tuple(dataclasses.replace(hook, factor=hook.factor**power) for hook in plan.hooks)
    return dataclasses.replace(plan, rows=rows, hooks=hooks)


def _row_at(row: Row, shape: tuple[int, ...], base_shape: tuple[int, ...], widest: float, std: float) -> Row:
    then = _growth(row.shape, row.base_shape)
    power = math.log(_growth(shape, base_shape)) / math.log(then if then > 1 else widest)
    changed = {f: value**power if (value := getattr(row, f)) > 0 else value for f in _RATIOS}
    kept = None if row.init_std is None else std * changed["init_mult"]
    return dataclasses.replace(row, shape=shape, base_shape=base_shape, init_std=kept, **changed)


def _growth(shape: Sequence[int], base_shape: Sequence[int]) -> float:
    """How many times the fastest growing axis is longer than the base's."""
    return max((a / b for a, b in zip(shape, base_shape, strict=True)), default=1.0)
