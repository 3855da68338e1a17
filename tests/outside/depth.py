"""One trial of a family's depth: has every parameter of the gained layers the depth rule, is a step of one size?

At one width nothing but the depth moves a multiplier. For AdamW and CompleteP (2505.01618, table 1, alpha = 1) a
branch's outlet takes the factor 1/m_L, held as init and learning rate times 1/m_L; everything before it keeps both, and
its gradients, hence its eps, are 1/m_L.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log, sqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import template
from hptransfer.parametrization.plan import Plan
from hptransfer.parametrization.row import Row

Verdict = Literal["PASS", "FAIL", "REFUSED", "ERROR"]
Inputs = Mapping[str, Any] | tuple[Any, ...]
Rule = Literal["outlet", "inside", "none", "other"]

DEPTHS = (2, 8)
SEEDS = 2
RATE = 2**-9
STEEPEST = 0.25
"""Slope of the log of a step's size over the log of the depth; without a depth rule it is near 1."""


@dataclass(frozen=True)
class DepthTrial:
    """What came of one family from the first to the last of DEPTHS.

    verdict: PASS where every parameter of the repeated layers is an outlet or inside a branch, there are outlets (or
    hooks in their place), nothing else changed and the steps' slope is below STEEPEST. layered: parameters of repeated
    layers; outlet, inside: how many carry either half of the rule. without: their names without it, by template;
    astray: names outside the layers that it changed. hooks: multipliers kept as hooks. slope: of log |step of the
    outputs| over log depth, with the rule; slope_without: with one learning rate and the model's own initial weights.
    """

    family: str
    verdict: Verdict
    reason: str = ""
    layered: int = 0
    outlet: int = 0
    inside: int = 0
    without: Mapping[str, int] = field(default_factory=dict)
    astray: tuple[str, ...] = ()
    hooks: int = 0
    slope: float | None = None
    slope_without: float | None = None
    plan_seconds: float | None = None


def attempt_depth(name: str, build: Callable[[int], nn.Module], inputs: Inputs, *, measure: bool = True) -> DepthTrial:
    """Plan the deepest of DEPTHS against the shallowest and judge the rows. Never raises: an exception is an outcome.

    build: depth -> freshly initialised model. measure: train a step at every depth of MEASURED too.
    """
    trial = DepthTrial(name, "ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _judged(trial, build, inputs, measure)
    except UsageError as error:
        return replace(trial, verdict="REFUSED", reason=str(error))
    except Exception as error:
        return replace(trial, reason=f"{type(error).__name__}: {error}")


def _judged(trial: DepthTrial, build: Callable[[int], nn.Module], inputs: Inputs, measure: bool) -> DepthTrial:
    started = time.perf_counter()
    target, base = _built(build, max(DEPTHS)), _built(build, min(DEPTHS))
    options = hpt.Options(unused="keep")
    plan = hpt.make_plan(target, base=base, example_inputs=inputs, scheme="completep", options=options)
    seconds = round(time.perf_counter() - started, 2)
    layered = _repeated(target, base)
    rules = {row.name: rule_of(row, max(DEPTHS) / min(DEPTHS)) for row in plan}
    counts = Counter(rules[name] for name in layered)
    without = Counter(template(name) for name in layered if rules[name] not in ("outlet", "inside"))
    astray = tuple(name for name, rule in rules.items() if rule != "none" and name not in layered)
    halves = {"layered": len(layered), "outlet": counts["outlet"], "inside": counts["inside"]}
    rest = {"without": dict(without), "astray": astray, "hooks": len(plan.hooks), "plan_seconds": seconds}
    trial = replace(trial, **halves, **rest)
    if measure:
        runs = ((min(DEPTHS), None), (max(DEPTHS), plan), (max(DEPTHS), None))
        start, *later = (_step(build, inputs, depth, which) for depth, which in runs)
        slopes = [round(log(size / start, max(DEPTHS) / min(DEPTHS)), 3) for size in later]
        trial = replace(trial, slope=slopes[0], slope_without=slopes[1])
    reasons = _reasons(trial)
    return replace(trial, verdict="FAIL" if reasons else "PASS", reason="; ".join(reasons))


def _reasons(trial: DepthTrial) -> list[str]:
    reasons: list[str] = []
    if trial.without:
        lost = ", ".join(f"{name} ({count})" for name, count in trial.without.items())
        reasons.append(f"no depth rule for {lost}")
    if trial.astray:
        reasons.append(f"a depth rule outside the layers: {', '.join(trial.astray)}")
    if not trial.outlet and not trial.hooks:
        reasons.append("no branch has its 1/m_L")
    if trial.slope is not None and trial.slope > STEEPEST:
        reasons.append(f"the outputs' step grows as depth^{trial.slope:.2f}")
    return reasons


def rule_of(row: Row, ratio: float) -> Rule:
    """Which half of the depth rule a parameter carries, at one width, where nothing but the depth moves a multiplier.

    ratio: m_L. "other" is any multiplier that is neither.
    """
    got = (row.init_mult * row.fwd_mult, row.lr_mult * row.fwd_mult, row.eps_mult / row.fwd_mult)
    for rule, wanted in _RULES.items():
        if all(abs(multiplier / ratio**power - 1) < 1e-6 for multiplier, power in zip(got, wanted, strict=True)):
            return rule
    return "other"


_RULES: Mapping[Rule, tuple[int, int, int]] = {"none": (0, 0, 0), "inside": (0, 0, -1), "outlet": (-1, -1, 0)}
"""Powers of m_L on init, learning rate and eps."""


def _step(build: Callable[[int], nn.Module], inputs: Inputs, depth: int, plan: Plan | None) -> float:
    """Root mean square of the outputs' change in one AdamW step, the objective a random direction of the outputs.

    plan: of this depth; None: one learning rate and the model's own initial weights.
    """
    squares: list[float] = []
    for seed in range(SEEDS):
        model = _built(build, depth, seed)
        if plan is not None:
            hpt.parametrize_(model, plan)
        groups = model.parameters() if plan is None else hpt.param_groups(model, plan, lr=RATE, eps=1e-12)
        optimizer = torch.optim.AdamW(groups, lr=RATE, eps=1e-12, betas=(0.0, 0.0), weight_decay=0.0)
        before = _outputs(model, inputs)
        weights = torch.randn(before.shape, generator=torch.Generator().manual_seed(seed))
        (before * weights).mean().backward()
        optimizer.step()
        squares.append(float((_outputs(model, inputs) - before).detach().pow(2).mean()))
    return sqrt(sum(squares) / len(squares))


def _built(build: Callable[[int], nn.Module], depth: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(depth)


def _repeated(target: nn.Module, base: nn.Module) -> Sequence[str]:
    """Names of the target whose template the base has less often."""
    deep, shallow = ([name for name, _ in model.named_parameters()] for model in (target, base))
    often, rarely = (Counter(template(name) for name in names) for names in (deep, shallow))
    return [name for name in deep if often[template(name)] > rarely[template(name)]]


def _outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    outputs = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    if isinstance(outputs, Tensor):
        return outputs
    return outputs.logits if hasattr(outputs, "logits") else outputs[0]
