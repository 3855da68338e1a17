"""equilibrium_check: does weight decay forget at the same pace, and do weights turn at the same rate, at every width?

A coordinate check looks at the first steps, when decay has done nothing yet. Later, W_t is an exponential moving
average of its updates with timescale 1 / (lr wd), and it settles where growth by updates balances shrinkage by decay:

  decoupled decay   W <- (1 - lr wd) W - lr u,   E u = 0, entries of long-run variance 1
  equilibrium       rms W = sqrt(lr / (2 wd)),    relative update |lr u| / |W| = sqrt(2 lr wd (1 - b1) / (1 + b1))

for Adam's u, an average with constant b1 of unit-variance noise. (Kosson et al. 2023, 2305.17212, rotational
equilibrium; derived again here from the recursion's stationary variance for lr wd << 1 - b1, and held against
simulation in tests.)

muP's hidden lr ~ 1/m. With wd as given ("coupled") the timescale grows as m and the rotation fades; with wd ~ m
("independent") both stay. That rule is what decides late training, and no coordinate check sees it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from hptransfer.checks.checked import checked_count, checked_lr, checked_widths
from hptransfer.checks.coord.rows import TOLERANCE
from hptransfer.checks.equilibrium.report import DecayRecord, EquilibriumReport, report_of
from hptransfer.checks.proxy import Proxies, Proxy
from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import next_batch, to_device
from hptransfer.core.training.progress import progress
from hptransfer.core.training.recipe import Recipe
from hptransfer.core.training.seeding import seeded
from hptransfer.parametrization.apply.wrappers import plain_names
from hptransfer.parametrization.options import DecayRule, Options
from hptransfer.parametrization.plan import Plan

RULES: tuple[DecayRule, ...] = get_args(DecayRule)
TIMESCALES = 3
"""A check trains for this many timescales of the base: its memory of the start is then e^-3."""


def timescale(lr: float, weight_decay: float) -> float:
    """Steps over which decoupled decay forgets a factor e: 1 / (lr wd). inf without decay."""
    rate = lr * weight_decay
    return 1 / rate if rate else math.inf


def equilibrium_rms(lr: float, weight_decay: float) -> float:
    """RMS at which a weight under AdamW and white-noise gradients settles: sqrt(lr / (2 wd)). inf without decay."""
    return math.sqrt(lr / (2 * weight_decay)) if weight_decay else math.inf


def equilibrium_rotation(lr: float, weight_decay: float, beta1: float) -> float:
    """Relative update |lr u| / |W| per step there, decay's own part left out: sqrt(2 lr wd (1 - b1) / (1 + b1))."""
    return math.sqrt(2 * lr * weight_decay * (1 - beta1) / (1 + beta1))


def equilibrium_check(
    recipe: Recipe,
    *,
    widths: Sequence[int],
    rules: Sequence[DecayRule] = RULES,
    steps: int = 120,
    seeds: int = 3,
    scheme: str = "mup",
    lr: float | None = None,
    weight_decay: float | None = None,
    device: str | torch.device = "cpu",
    tolerance: float = TOLERANCE,
) -> EquilibriumReport:
    """Hold every weight-decay rule against constant timescale and constant rotation over width.

    Exactly, from the plan's optimizer groups: decay per step and timescale of every parameter. Measured: the share of a
    weight that one real step of the optimizer takes away, and the relative update at the start and after `steps` steps.
    lr: default the middle of recipe.lrs, held constant. weight_decay: of the base; by default so strong that its
    timescale is a third of the run (a real run takes thousands of steps to get there).
    Returns a report with one verdict per rule; `verdict` is that of the first.
    Raises UsageError where an argument is out of range, or the optimizer's decay is neither decoupled nor part of a
    gradient step (torch.optim.Adam compares it with the gradient, so it has no timescale).
    """
    widths, steps = checked_widths(widths), checked_count("steps", steps, least=8)
    seeds, lr = checked_count("seeds", seeds, least=2), checked_lr(recipe, lr)
    decay = TIMESCALES / (lr * steps) if weight_decay is None else weight_decay
    if not (math.isfinite(decay) and decay > 0):
        raise UsageError(f"weight_decay={weight_decay!r}: must be a positive finite number.")
    if not rules:
        raise UsageError(f"rules is empty: give at least one of {', '.join(RULES)}.")
    makers: dict[DecayRule, Proxies] = {}
    for rule in rules:
        makers[rule] = _proxies(recipe, scheme, lr, decay, rule, device)
    grid: list[tuple[DecayRule, int, int]] = [(r, w, s) for r in makers for w in widths for s in range(seeds)]
    records: list[DecayRecord] = []
    with progress(label=f"update equilibrium ({scheme})", total=len(grid), unit="run") as bar:
        for rule, width, seed in grid:
            proxy = makers[rule](width, seed)
            _refuse_relative_decay(proxy.plan)
            records += _run(recipe, proxy, rule, steps)
            bar.update()
    settings: dict[str, Any] = {
        "recipe": recipe.name,
        "scheme": scheme,
        "widths": list(widths),
        "base_width": recipe.base.width,
        "seeds": seeds,
        "steps": steps,
        "lr": lr,
        "weight_decay": decay,
        "base_timescale": timescale(lr, decay),
        "optimizer": recipe.optimizer_name,
        "device": str(device),
    }
    return report_of(records, tuple(makers), tolerance, settings)


def _proxies(
    recipe: Recipe, scheme: str, lr: float, decay: float, rule: DecayRule, device: str | torch.device
) -> Proxies:
    options = Options(weight_decay=rule)
    return Proxies(recipe, scheme=scheme, lr=lr, device=device, options=options, changes={"weight_decay": decay})


def _refuse_relative_decay(plan: Plan) -> None:
    for info in plan.optimizers.values():
        if not (info.decoupled or info.geometry == "gradient") or info.decay_in_step or info.free_of_lr:
            raise UsageError(
                f"The weight decay of {info.name} is compared with the gradient or the step, or free of lr, so it has "
                "no timescale 1 / (lr wd). Check the recipe with a decoupled one: "
                "recipe.replace(optimizer=torch.optim.AdamW)."
            )


def _run(recipe: Recipe, proxy: Proxy, rule: DecayRule, steps: int) -> list[DecayRecord]:
    """Train one proxy; relative updates are averaged over the 2nd to 4th step and over the last quarter."""
    device = next(proxy.model.parameters()).device
    weights = {n: p for n, p in plain_names(proxy.model, proxy.plan).items() if p.requires_grad}
    first = {n: p.detach().clone() for n, p in weights.items()}
    batches, sizes = recipe.batches(proxy.scale, proxy.seed), {n: [] for n in weights}
    with seeded(proxy.seed, "training"):
        for step in range(steps):
            _backward(recipe, proxy, to_device(next_batch(recipe, batches, step), device))
            before = {n: p.detach().clone() for n, p in weights.items()}
            proxy.optimizer.step()
            for name, rate in rates(proxy.optimizer, weights).items():
                sizes[name].append(relative_update(weights[name], before[name], rate))
        _backward(recipe, proxy, to_device(next_batch(recipe, batches, steps), device))
    taken, groups = decay_per_step(proxy.optimizer, weights), rates(proxy.optimizer, weights)
    early, late = slice(1, 4), slice(-max(1, steps // 4), None)
    return [
        DecayRecord(
            rule=rule,
            width=proxy.scale.width or 0,
            seed=proxy.seed,
            parameter=name,
            role=proxy.plan[name].role,
            matrix=weights[name].dim() > 1,
            rate=groups[name],
            taken=taken[name],
            update_start=_mean(sizes[name][early]),
            update_end=_mean(sizes[name][late]),
            norm_ratio=float(weights[name].detach().norm() / first[name].norm()) if first[name].any() else math.nan,
        )
        for name in weights
    ]


def _backward(recipe: Recipe, proxy: Proxy, batch: Any) -> None:
    proxy.optimizer.zero_grad(set_to_none=True)
    recipe.loss(proxy.model, batch).backward()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def rates(optimizer: torch.optim.Optimizer, weights: dict[str, nn.Parameter]) -> dict[str, float]:
    """Parameter -> decay per step, lr x wd of the optimizer group that it is in."""
    own = {
        id(p): float(g["lr"]) * float(g.get("weight_decay", 0.0)) for g in optimizer.param_groups for p in g["params"]
    }
    return {name: own[id(p)] for name, p in weights.items()}


@torch.no_grad()
def relative_update(now: Tensor, before: Tensor, rate: float) -> float:
    """|W_t+1 - (1 - rate) W_t| / |W_t|: one step without its decay. nan where W_t is zero."""
    size = float(before.norm())
    return float((now - (1 - rate) * before).norm()) / size if size else math.nan


def decay_per_step(optimizer: torch.optim.Optimizer, weights: dict[str, nn.Parameter]) -> dict[str, float]:
    """Share of a weight that decay takes away in one real step: the step is taken with and without decay, and undone.

    Gradients must be there. nan for a weight that is zero.
    """
    state, groups = copy.deepcopy(optimizer.state_dict()), [g.get("weight_decay", 0.0) for g in optimizer.param_groups]
    start = {n: p.detach().clone() for n, p in weights.items()}
    optimizer.step()
    decayed = {n: p.detach().clone() for n, p in weights.items()}
    _restore(optimizer, state, weights, start)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    optimizer.step()
    free = {n: p.detach().clone() for n, p in weights.items()}
    _restore(optimizer, state, weights, start)
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group["weight_decay"] = own
    return {n: _share(free[n] - decayed[n], start[n]) for n in weights}


def _share(taken: Tensor, weight: Tensor) -> float:
    squares = float(weight.double().square().sum())
    return float((taken.double() * weight.double()).sum()) / squares if squares else math.nan


@torch.no_grad()
def _restore(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], weights: dict[str, nn.Parameter], start: dict[str, Tensor]
) -> None:
    optimizer.load_state_dict(copy.deepcopy(state))
    for name, parameter in weights.items():
        parameter.copy_(start[name])
