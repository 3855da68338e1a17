"""The derivation of a target run's values: numbered steps, each with number, interval, law, source and assumptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hptransfer.core.files import Document
from hptransfer.core.horizon import Carried
from hptransfer.core.optimizers import torch_row
from hptransfer.core.recipe import Scale
from hptransfer.core.rules import scheme_named
from hptransfer.prediction.forecast.lean import Lean
from hptransfer.prediction.forecast.transfer import (
    Factor,
    batch_factor,
    compose,
    decay_axes,
    decayed,
    refuse_unknown_base,
    schedule_factor,
    width_and_depth,
)
from hptransfer.prediction.laws.decay import DecaySettings
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.schedules.schedule import Schedule, from_array


@dataclass(frozen=True)
class Step:
    """One step of the derivation: what it does in words, and the number it gives (None: nothing to change)."""

    title: str
    prediction: Prediction | None
    text: str = ""


@dataclass(frozen=True)
class Settings:
    """The base run. weight_decay, betas: of the optimizer; schedule: its factors; residual: depth rules apply."""

    optimizer: str
    weight_decay: float
    betas: tuple[float, ...] | None
    schedule: Schedule
    residual: bool = True


@dataclass(frozen=True)
class Rules:
    """Which law carries which axis.

    scheme: for width and depth. batch: a rule of batch_rules, or "auto" (sqrt-capped with a known noise scale and sqrt
    without, for sign-like optimizers; mccandlish or linear for gradient steps). decay: a rule of decay.py. schedule:
    "transfer" applies the convex bound with measured shrinkage when steps or shape change; "keep" leaves the rate.
    """

    scheme: str = "completep"
    batch: str = "auto"
    decay: str = "timescale"
    schedule: str = "transfer"


@dataclass(frozen=True)
class Forecast(Document):
    """Everything predicted for a target, written before its run.

    steps: the derivation in order. learning_rate: composed; advised_lr: after leaning away from the cliff.
    base_curve: (log2 lr, mean loss) of the sweep at the base, inf where a run diverged; empty where there was none.
    cliff: log2 of the base's last rate that trained and the first that diverged, None where none diverged.
    schedule_factors: (progress in 0..1, factor) of the target's schedule, thinned for a figure.
    carries: quantity -> the axes whose factors its number holds; a plan that carries one of them, too, refuses it.
    """

    TITLE = "a forecast"
    REMEDY = "Write it with Forecast.save."
    STRICT = True

    recipe: str
    base: Scale
    target: Scale
    rules: Rules
    steps: tuple[Step, ...]
    learning_rate: Prediction
    advised_lr: float
    weight_decay: Prediction | None
    betas: tuple[float, ...] | None
    divergence_probability: float | None
    loss: Prediction | None
    command: str = ""
    base_curve: tuple[tuple[float, float], ...] = ()
    cliff: tuple[float, float] | None = None
    schedule_factors: tuple[tuple[float, float], ...] = ()
    carries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rate, decay = (self.carries.get(name, ()) for name in ("learning rate", "weight decay"))
        object.__setattr__(self, "advised_lr", Carried(self.advised_lr, rate))
        object.__setattr__(self, "learning_rate", _carried(self.learning_rate, rate))
        object.__setattr__(self, "weight_decay", self.weight_decay and _carried(self.weight_decay, decay))

    def __str__(self) -> str:
        lines = [f"Forecast for {self.recipe} at {self.target}, from {self.base}"]
        for number, step in enumerate(self.steps, start=1):
            lines.append(f"{number}. {step.title}" + (f": {step.text}" if step.text else ""))
            if step.prediction is not None:
                lines += [f"   {line}" for line in _lines(step.prediction)]
        lines.append(f"=> learning rate {self.advised_lr:.4g} (2^{math.log2(self.advised_lr):.2f})")
        return "\n".join(lines)

    @classmethod
    def upgraded(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """A loss that is null is a run that diverged: earlier files had no inf."""
        curve = [[lr, "inf" if loss is None else loss] for lr, loss in fields.get("base_curve", ())]
        at, to = ({"batch": None, "tokens": None, **fields[end]} for end in ("base", "target"))
        moved = [axis for axis in ("batch", "tokens") if at[axis] != to[axis]]
        return {"carries": {"learning rate": moved, "weight decay": moved}, **fields, "base_curve": curve}


def forecast(
    *,
    recipe: str,
    start: Prediction,
    base: Scale,
    target: Scale,
    settings: Settings,
    target_schedule: Schedule,
    rules: Rules | None = None,
    noise: Prediction | None = None,
    stability: Prediction | None = None,
    lean: Lean | None = None,
    loss: Prediction | None = None,
    base_curve: Sequence[tuple[float, float]] = (),
) -> Forecast:
    """Join what is derived, measured and fitted into the target's values.

    start: "learning rate" at the base, measured or given. noise: noise scale in the unit of the scales' batch.
    stability: the base's stability limit; lean: how low to aim, from the base's curve; loss: expected at the target;
    base_curve: as in Forecast.
    Raises UsageError where a rule is unknown, cannot serve this change of scale, or would count an axis twice.
    """
    rules = rules or Rules()
    refuse_unknown_base(base, target)
    factors = [
        *width_and_depth(base, target, scheme_named(rules.scheme), depths=settings.residual),
        *batch_factor(base, target, _batch_rule(rules.batch, settings, noise), noise_scale=_value(noise)),
        *(schedule_factor(settings.schedule, target_schedule) if rules.schedule == "transfer" else ()),
    ]
    rate = compose(start, factors)
    advised = rate.value * 2.0 ** -(lean.octaves if lean else 0.0)
    decay = _decay(rules.decay, base, target, settings, start.value, advised)
    steps = [
        Step("Learning rate at the base", start),
        *(_factor_step(factor) for factor in factors),
        *([] if noise is None else [Step("Gradient noise scale", noise)]),
        Step("Learning rate at the target", rate),
        *([] if lean is None else [_lean_step(lean, advised)]),
        *([] if stability is None else [Step("Stability limit at the base, a diagnostic", stability)]),
        *([] if decay is None else [Step("Weight decay at the target", decay)]),
        *_betas_step(base, target, settings),
        Step("Expected loss", loss, "" if loss else "not predicted: it needs runs at 3 or more scales"),
    ]
    return Forecast(
        recipe,
        base,
        target,
        rules,
        tuple(steps),
        rate,
        advised,
        decay,
        _betas(base, target, settings),
        None if lean is None else lean.diverges,
        loss,
        base_curve=tuple(base_curve),
        cliff=(lean.cliff_low, lean.cliff_high) if lean and math.isfinite(lean.cliff_high) else None,
        schedule_factors=_thinned(target_schedule),
        carries={"learning rate": _axes(factors), "weight decay": decay_axes(rules.decay, base, target)},
    )


def _axes(factors: Sequence[Factor]) -> tuple[str, ...]:
    """The axes whose factors change the rate."""
    return tuple(sorted({axis for factor in factors if factor.value != 1 for axis in factor.axes}))


def _carried(prediction: Prediction, axes: tuple[str, ...]) -> Prediction:
    return prediction.replace(value=Carried(prediction.value, axes))


def _batch_rule(name: str, settings: Settings, noise: Prediction | None) -> str:
    if name != "auto":
        return name
    row = torch_row(settings.optimizer)
    by_gradient = row is not None and row.geometry == "gradient"
    return ("mccandlish" if noise else "linear") if by_gradient else ("sqrt-capped" if noise else "sqrt")


def _value(noise: Prediction | None) -> float | None:
    return None if noise is None else noise.value


def _factor_step(factor: Factor) -> Step:
    ends = factor.value, factor.low, factor.high
    kind, told = Kind(factor.kind.exponent, "none"), (factor.law, factor.source, factor.assumptions)
    prediction = Prediction("factor on the learning rate", *ends, "1", *told, kind)
    return Step(f"Factor for {' and '.join(sorted(factor.axes))}", prediction)


def _lean_step(found: Lean, advised: float) -> Step:
    cliff = (
        f"runs diverge between 2^{found.cliff_low:.2f} and 2^{found.cliff_high:.2f} at the base"
        if math.isfinite(found.cliff_high)
        else "no run of the base's sweep diverged above its optimum"
    )
    text = f"aim {found.octaves:.2f} octaves lower, at {advised:.4g}; {cliff}; P(diverges) = {found.diverges:.2g}"
    return Step("Lean away from the cliff", None, text)


def _decay(rule: str, base: Scale, target: Scale, settings: Settings, lr: float, target_lr: float) -> Prediction | None:
    if settings.weight_decay == 0:
        return None
    batch, tokens = base.batch or 1.0, base.tokens or 1.0  # open at the base: then the same at both, only ratios count
    at_base = DecaySettings(lr, settings.weight_decay, batch, tokens, None, base.width)
    at = target.batch or batch, target.tokens or tokens
    at_target = DecaySettings(target_lr, settings.weight_decay, *at, None, target.width)
    return decayed(rule, at_base, at_target)


def _betas(base: Scale, target: Scale, settings: Settings) -> tuple[float, ...] | None:
    if settings.betas is None or base.batch is None or target.batch is None:
        return settings.betas
    return tuple(beta ** (target.batch / base.batch) for beta in settings.betas)


def _betas_step(base: Scale, target: Scale, settings: Settings) -> list[Step]:
    moved = _betas(base, target, settings)
    if moved is None or moved == settings.betas:
        return []
    shown = ", ".join(f"{beta:.6g}" for beta in moved)
    return [Step("Betas", None, f"({shown}): beta^(B/B0) keeps the half-life in samples (2205.10287 to first order)")]


def _lines(p: Prediction) -> list[str]:
    interval = "" if p.low is None or p.high is None else f" [{p.low:.4g}, {p.high:.4g}]"
    unit = "" if p.unit == "1" else f" {p.unit}"
    lines = [f"{p.value:.4g}{interval}{unit}  ({p.kind})", f"law: {p.law}; source: {p.source}"]
    return [*lines, *([f"assumes: {'; '.join(p.assumptions)}"] if p.assumptions else [])]


def _thinned(schedule: Schedule, points: int = 200) -> tuple[tuple[float, float], ...]:
    """(progress, factor) at no more than `points` steps, both ends among them."""
    last = schedule.steps - 1
    kept = sorted({round(i * last / (points - 1)) for i in range(points)})
    return tuple(((t + 0.5) / schedule.steps, schedule.at(t)) for t in kept)


def schedule_of(recipe_schedule: Callable[[float], float], steps: int) -> Schedule:
    """A recipe's schedule (progress -> factor) as an array over its steps."""
    return from_array([recipe_schedule((t + 0.5) / steps) for t in range(steps)], name="recipe")
