"""predict: measure the optimum at the base by a small sweep, then derive the target's values before its run."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, get_args

import numpy as np
import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import refuse_twice
from hptransfer.core.training.loop import evaluate
from hptransfer.core.training.recipe import Recipe, Scale, load_recipe
from hptransfer.core.training.seeding import seeded_model
from hptransfer.core.training.units import refuse_other_batch
from hptransfer.prediction.forecast.forecast import Forecast, Rules, Settings, forecast, schedule_of
from hptransfer.prediction.forecast.lean import Lean, lean
from hptransfer.prediction.forecast.measured import noise_scale, stability_limit
from hptransfer.prediction.forecast.transfer import NORMAL_90, refuse_unknown_base
from hptransfer.prediction.forecast.width_law import loss_at_size
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.schedules.schedule import Schedule
from hptransfer.validation.choices import StartName
from hptransfer.validation.forecasts.quarter import SHIFT, QuarterStart, long_enough, quarter_start
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.sweep import run_sweep
from hptransfer.validation.verdict.optimum import Curve, Fit, curve_of, optima

MAX_STEPS = 100_000_000
"""Beyond, a schedule as an array would no longer fit into memory; a batch left at the proxy's is the likely cause."""


def predict(
    recipe: Recipe | str,
    *,
    target: Scale,
    checked: TransferResult | None = None,
    lr: float | None = None,
    start: StartName = "auto",
    shift: float = SHIFT,
    rules: Rules | None = None,
    target_schedule: Schedule | None = None,
    noise: Prediction | None = None,
    measure_noise: bool = False,
    lrs: Sequence[float] | None = None,
    seeds: int | Sequence[int] | None = None,
    device: str = "auto",
    workers: int | None = None,
    out: str | os.PathLike[str] | None = None,
    diagnostics: bool = True,
    progress: Callable[[str], None] | None = None,
    started: Callable[[QuarterStart], None] | None = None,
) -> Forecast:
    """Learning rate, schedule, betas, weight decay and loss for a target run, each with interval and source.

    recipe: the proxy, or its path; its base is where the optimum is measured, at the recipe's own steps and schedule.
    target: width, depth, batch, tokens (batch and tokens in one unit); axes left open stay at the base.
    checked: the result of a transfer check of this recipe: its optimum at the base is used, and its drift; otherwise
    the best rate of the base alone is measured. start: "quarter" (see quarter.py; shift: what it moves its guess by),
    "sweep" (lrs, seeds, workers, device, out as in run_sweep), "given" (lr), or "auto": given where lr is, the check's
    where there is one, a quarter where that is 50 steps and no seeds, workers or out ask for a sweep, else a sweep.
    target_schedule: the target's; default: the recipe's own shape over the target's steps.
    noise: a measured noise scale in the unit of target.batch; measure_noise: measure it on the base, before training.
    diagnostics: whether the base's stability limit is measured, a few gradients of its batch. progress: told, in a
    line, before anything that takes more than a moment. started: told the quarter start, where one was made.
    Raises UsageError where the base's optimum lies at the edge of the grid, a rule cannot serve the target, or the
    base's batch, tokens and steps contradict each other or the recipe's own batches.
    """
    tell = progress or (lambda text: None)
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    recipe = _as_checked(recipe, checked)
    base = _base(recipe)
    refuse_unknown_base(base, target)
    batch = next(iter(recipe.batches(recipe.base, 0)), None)
    refuse_other_batch(batch, recipe.base.batch, recipe.unit, recipe.name)
    schedule = target_schedule or schedule_of(recipe.schedule, target_steps(recipe, target))
    if measure_noise and noise is None:
        tell(f"Measuring the noise scale: 8 steps of 4 batches at {recipe.base}; noise= or no --noise skips it.")
        noise = _in_examples(noise_scale(recipe, recipe.base), base.batch)
    known: dict[str, Any] = {
        "recipe": recipe.name,
        "base": base,
        "target": _filled(target, base),
        "settings": _settings(recipe, base),
        "target_schedule": schedule,
        "rules": rules,
        "noise": noise,
    }
    chosen = _start_of(start, recipe, lr, checked, plain=seeds is None and out is None and workers is None)
    forecast(**known, start=_given(1.0))  # what the rules cannot serve is refused before anything is trained
    options: dict[str, Any] = {"lrs": lrs, "seeds": seeds, "device": device, "workers": workers, "out": out}
    if lr is not None and chosen == "given":
        begin, leaned, points = _given(lr), None, ()
    elif chosen == "quarter":
        tell(f"Finding the best rate at the base, {recipe.base}, by a quarter of {recipe.steps} steps; lr= skips it.")
        found = quarter_start(recipe, lrs=lrs, shift=shift, device=device, progress=progress)
        if started is not None:
            started(found)
        begin, points = found.prediction(), found.end
        leaned = _lean(points, begin, forecast(**known, start=begin).learning_rate, found.initial_loss)
    else:
        if checked is None:
            tell(f"Finding the best rate at the base, {recipe.base}: {recipe.steps} steps a run; lr= skips it.")
        curve, known["drift"] = _curve(recipe, checked, options)
        begin = _start(curve)
        points = tuple(zip(curve.log2_lrs.tolist(), curve.means.tolist(), strict=True))
        initial = evaluate(recipe, seeded_model(recipe, recipe.base, 0), "cpu")
        leaned = _lean(points, begin, forecast(**known, start=begin).learning_rate, initial)
    if diagnostics:
        tell(f"Measuring the base's stability limit: 4 batches at {recipe.base}; diagnostics=False skips it.")
    return forecast(
        **known,
        start=begin,
        stability=_stability(recipe) if diagnostics else None,
        lean=leaned,
        loss=_loss(recipe, checked, target) if checked else None,
        base_curve=points,
    )


def _as_checked(recipe: Recipe, checked: TransferResult | None) -> Recipe:
    """The recipe at the number of steps that the check trained."""
    if checked is None:
        return recipe
    if checked.recipe != recipe.name:
        raise UsageError(f"The check is of recipe {checked.recipe!r}, not {recipe.name!r}. Give one of this.")
    return recipe.replace(steps=checked.steps)


def _base(recipe: Recipe) -> Scale:
    """The base with its tokens filled in from its steps, where its batch is known.

    Raises UsageError where tokens / batch are not the recipe's steps: one of them is then in another unit.
    """
    base = recipe.base
    if base.batch and base.tokens and abs(base.tokens / base.batch / recipe.steps - 1) > 0.02:
        raise UsageError(
            f"Recipe {recipe.name!r} trains {recipe.steps} steps, but its base has tokens / batch = {base.tokens:g} / "
            f"{base.batch:g} = {base.tokens / base.batch:.4g} of them. Both count {recipe.unit}: mend the one that "
            "does not, or leave tokens out."
        )
    return base.with_(tokens=base.batch * recipe.steps) if base.batch and not base.tokens else base


def _filled(target: Scale, base: Scale) -> Scale:
    return base.with_(**target.said)


def target_steps(recipe: Recipe, target: Scale) -> int:
    """Optimizer steps of the target's run: its tokens by its batch, the base's where it leaves them open.

    Raises UsageError where the recipe does not say its batch but the target sets batch or tokens, or beyond MAX_STEPS.
    """
    base = _base(recipe)
    refuse_unknown_base(base, target)
    filled = _filled(target, base)
    if filled.tokens is None or filled.batch is None:
        return recipe.steps
    steps = max(1, round(filled.tokens / filled.batch))
    if steps > MAX_STEPS:
        raise UsageError(f"{filled} makes {steps:.3g} steps; at most {MAX_STEPS:.3g} are allowed. Give a larger batch.")
    return steps


def _curve(recipe: Recipe, checked: TransferResult | None, options: dict[str, Any]) -> tuple[Curve, float | None]:
    """The base's loss curve, and the drift that a check of this recipe measured (octaves; None without one)."""
    width = recipe.base.width
    if checked is None:
        given = {k: v for k, v in options.items() if v is not None}
        runs = run_sweep(recipe, scales=[recipe.base], schemes=("mup",), **given)
        scheme, drift = "mup", None
    else:
        runs, scheme = [run for run in checked.runs if run.depth == recipe.base.depth], checked.scheme
        own = [d for d in checked.drifts if d.scheme == scheme and checked.axis == "width"]
        drift = next((max(abs(d.low), abs(d.high)) for d in own), None)
    seeds = sorted({run.seed for run in runs if (run.scheme, run.width) == (scheme, width)})
    if not seeds or width is None:
        raise UsageError(
            f"No run of recipe {recipe.name!r} at its base width {width}. Check it with that width included."
        )
    return curve_of(runs, scheme=scheme, size=width, seeds=seeds), drift


def _start(curve: Curve) -> Prediction:
    """The measured optimum with its interval."""
    optimum = optima([Fit.of(curve)])[0]
    if not math.isfinite(optimum.log2_lr):
        raise UsageError(f"No run at the base's width {curve.size} finished, so it has no best learning rate.")
    if optimum.at_edge:
        raise UsageError(
            f"The base's best learning rate is at the edge of the grid 2^{curve.log2_lrs[0]:g} to "
            f"2^{curve.log2_lrs[-1]:g}. Widen it with lrs."
        )
    half = optimum.high - optimum.log2_lr if math.isfinite(optimum.high) else 0.5
    at = optimum.log2_lr
    assumptions = ("the recipe's data, schedule and optimizer stand for the target's",)
    source = f"{len(curve.log2_lrs)} learning rates x {curve.seeds} seeds at width {curve.size}"
    values = 2.0**at, 2.0 ** (at - half), 2.0 ** (at + half)
    return Prediction("learning rate", *values, "1", "sweep optimum", source, assumptions, Kind("none", "measured"))


def _loss(recipe: Recipe, checked: TransferResult, target: Scale) -> Prediction | None:
    """The tuned losses of the check, continued to the target's width; None where only width does not tell."""
    others = target.said.keys() - {"width"}
    tuned = {o.size: o.loss for o in checked.optima if o.scheme == checked.scheme and math.isfinite(o.loss)}
    if checked.axis != "width" or target.width is None or others or len(tuned) < 3:
        return None
    sizes = [float(_size(recipe, width)) for width in tuned]
    return loss_at_size(sizes, list(tuned.values()), float(_size(recipe, target.width)))


def _size(recipe: Recipe, width: int) -> int:
    """Number of parameters at a width, counted without allocating them."""
    with torch.device("meta"):
        return sum(p.numel() for p in recipe.build(recipe.base.with_(width=width)).parameters())


def _given(lr: float) -> Prediction:
    if not (math.isfinite(lr) and lr > 0):
        raise UsageError(f"lr={lr!r}: a learning rate must be a positive finite number.")
    refuse_twice("learning rate", lr, getattr(lr, "axes", ()), "a forecast from the base")
    return Prediction("learning rate", lr, None, None, "1", "given", "the user", (), Kind("none", "given"))


def _lean(
    points: Sequence[tuple[float, float]], start: Prediction, rate: Prediction, initial_loss: float
) -> Lean | None:
    """How low to aim at the target: the base's curve around its best rate, with the error of the target's."""
    x, y = zip(*points, strict=True)
    if rate.low is None or rate.high is None or int(np.isfinite(y).sum()) < 3:
        return None
    sd = math.log2(rate.high / rate.low) / (2 * NORMAL_90)
    return lean(x, y, optimum=math.log2(start.value), sd=max(sd, 1e-3), initial_loss=initial_loss)


def _start_of(
    asked: StartName, recipe: Recipe, lr: float | None, checked: TransferResult | None, *, plain: bool
) -> StartName:
    """Which start is made. Raises UsageError where the name is none, or contradicts what else was given."""
    if asked not in get_args(StartName):
        raise UsageError(f"start={asked!r}: use one of {', '.join(get_args(StartName))}.")
    if (asked == "given") != (lr is not None) and asked != "auto":
        raise UsageError(f"start={asked!r} with lr={lr!r}: a given rate is start 'given', and only that needs lr.")
    if asked == "quarter" and checked is not None:
        raise UsageError("start='quarter' beside a check, which has the base's optimum already. Leave one out.")
    if lr is not None:
        return "given"
    return asked if asked != "auto" else "quarter" if plain and checked is None and long_enough(recipe) else "sweep"


def _in_examples(found: Prediction, batch: float | None) -> Prediction:
    factor = batch or 1.0
    high = None if found.high is None else found.high * factor
    low = None if found.low is None else found.low * factor
    return found.replace(
        value=found.value * factor, low=low, high=high, unit="the batch's unit" if batch else "batches"
    )


def _settings(recipe: Recipe, base: Scale) -> Settings:
    defaults = {name: p.default for name, p in inspect.signature(recipe.one_optimizer).parameters.items()}
    options = defaults | dict(recipe.optimizer_options)
    return Settings(
        recipe.optimizer_name,
        float(options.get("weight_decay", 0.0)),
        tuple(options["betas"]) if "betas" in options else None,
        schedule_of(recipe.schedule, recipe.steps),
        residual=base.depth is not None,
    )


def _stability(recipe: Recipe) -> Prediction | None:
    """The stability diagnostic; None for an optimizer whose preconditioner is not known."""
    try:
        return stability_limit(recipe, recipe.base)
    except UsageError:
        return None
