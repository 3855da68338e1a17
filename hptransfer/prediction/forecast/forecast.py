"""The derivation of a target run's values: numbered steps, each with number, interval, law, source and assumptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document
from hptransfer.core.horizon.carried import Carried, moved_betas
from hptransfer.core.optimizers import torch_row
from hptransfer.core.rules import scheme_named
from hptransfer.core.training.recipe import Scale
from hptransfer.prediction.forecast.batch_and_tokens import (
    alternatives,
    batch_and_tokens,
    ratio,
    schedule_factor,
    shape_factor,
)
from hptransfer.prediction.forecast.lean import Lean
from hptransfer.prediction.forecast.steps import (
    CONCLUSIVE,
    Step,
    betas_step,
    factor_step,
    inconclusive_line,
    lean_step,
    prediction_lines,
    rate_line,
    stability_line,
)
from hptransfer.prediction.forecast.transfer import (
    Factor,
    compose,
    decay_axes,
    decayed,
    refuse_unknown_base,
    width_and_depth,
)
from hptransfer.prediction.laws.decay import DecaySettings
from hptransfer.prediction.provenance import Prediction
from hptransfer.prediction.schedules.schedule import Schedule, from_array


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

    scheme: for width and depth. batch: a rule of core/horizon/rules.py, or "auto" (sqrt-capped with a known noise
    scale and joint without, for sign-like optimizers; mccandlish or linear for gradient steps). decay: a rule of
    decay.py. schedule: "transfer" applies the convex bound with measured shrinkage where the shape changes; "keep"
    leaves the rate. duration: a rule of core/horizon/rules.py or "power:E"; "auto" is "joint", and "none" where the
    schedule is "keep".
    """

    scheme: str = "completep"
    batch: str = "auto"
    decay: str = "timescale"
    schedule: str = "transfer"
    duration: str = "auto"


@dataclass(frozen=True)
class Forecast(Document):
    """Everything predicted for a target, written before its run.

    steps: the derivation in order. learning_rate: composed; advised_lr: after leaning away from the cliff.
    base_curve: (log2 lr, mean loss) of the sweep at the base, inf where a run diverged; empty where there was none.
    cliff: log2 of the base's last rate that trained and the first that diverged, None where none diverged.
    schedule_factors: (progress in 0..1, factor) of the target's schedule, thinned for a figure.
    carries: quantity -> the axes whose factors its number holds; a plan that carries one of them, too, refuses it.
    betas: None where the optimizer has none, or where those of the base cannot follow the batch (a step says why).
    stability: the base's stability limit at initialisation, against which the advised rate is held.
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
    stability: Prediction | None = None

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
                lines += [f"   {line}" for line in prediction_lines(step.prediction)]
        return "\n".join([*lines, *self.headline])

    @property
    def decades(self) -> float | None:
        """Width of the learning rate's interval in powers of ten; None without one."""
        low, high = self.learning_rate.low, self.learning_rate.high
        return None if low is None or high is None else math.log10(high / low)

    @property
    def conclusive(self) -> bool:
        """Whether the interval is narrower than a decade: beyond, the forecast says that it does not know."""
        return self.decades is None or self.decades <= CONCLUSIVE

    @property
    def headline(self) -> list[str]:
        """The advised rate with its interval, whether it says anything, and how it stands to the stability limit."""
        lines = [rate_line(self.advised_lr, self.learning_rate)]
        if self.decades is not None and not self.conclusive:
            lines.append(inconclusive_line(self.decades))
        return lines if self.stability is None else [*lines, stability_line(self.advised_lr, self.stability)]

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
    drift: float | None = None,
) -> Forecast:
    """Join what is derived, measured and fitted into the target's values.

    start: "learning rate" at the base, measured or given. noise: noise scale in the unit of the scales' batch.
    stability: the base's stability limit; lean: how low to aim, from the base's curve; loss: expected at the target;
    base_curve: as in Forecast; drift: what a check measured over width, half an interval in octaves.
    Raises UsageError where a rule is unknown, cannot serve this change of scale, or would count an axis twice.
    """
    rules = rules or Rules()
    refuse_unknown_base(base, target)
    factors = [
        *width_and_depth(base, target, scheme_named(rules.scheme), depths=settings.residual, drift=drift),
        *_horizon_factors(base, target, settings, target_schedule, rules, noise),
    ]
    rate = compose(start, factors)
    advised = rate.value * 2.0 ** -(lean.octaves if lean else 0.0)
    decay = _decay(rules.decay, base, target, settings, start.value, advised)
    betas, why_not = _betas(base, target, settings)
    beside = alternatives(base, target)
    steps = [
        Step("Learning rate at the base", start),
        *(factor_step(factor) for factor in factors),
        *([Step("Alternatives for batch and tokens", None, beside)] if beside else []),
        *([] if noise is None else [Step("Gradient noise scale", noise)]),
        Step("Learning rate at the target", rate),
        *([] if lean is None else [lean_step(lean, advised)]),
        *([] if stability is None else [Step("Stability limit at the base, a diagnostic", stability)]),
        *([] if decay is None else [Step("Weight decay at the target", decay)]),
        *betas_step(settings.betas, betas, why_not),
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
        betas,
        None if lean is None else lean.diverges,
        loss,
        base_curve=tuple(base_curve),
        cliff=(lean.cliff_low, lean.cliff_high) if lean and math.isfinite(lean.cliff_high) else None,
        schedule_factors=_thinned(target_schedule),
        carries={"learning rate": _axes(factors), "weight decay": decay_axes(rules.decay, base, target)},
        stability=stability,
    )


def _axes(factors: Sequence[Factor]) -> tuple[str, ...]:
    """The axes whose factors change the rate."""
    return tuple(sorted({axis for factor in factors if factor.value != 1 for axis in factor.axes}))


def _carried(prediction: Prediction, axes: tuple[str, ...]) -> Prediction:
    return prediction.replace(value=Carried(prediction.value, axes))


def _horizon_factors(
    base: Scale, target: Scale, settings: Settings, schedule: Schedule, rules: Rules, noise: Prediction | None
) -> list[Factor]:
    """Batch, tokens and schedule. Rule "bound" takes tokens and shape in one, as it was fitted."""
    keep = rules.schedule == "keep"
    duration = ("none" if keep else "joint") if rules.duration == "auto" else rules.duration
    batch = _batch_rule(rules.batch, settings, noise)
    factors = batch_and_tokens(base, target, batch=batch, duration=duration, noise_scale=_value(noise))
    if duration == "bound":
        return [*factors, *schedule_factor(settings.schedule, schedule)]
    return factors if keep else [*factors, *shape_factor(settings.schedule, schedule)]


def _batch_rule(name: str, settings: Settings, noise: Prediction | None) -> str:
    if name != "auto":
        return name
    row = torch_row(settings.optimizer)
    by_gradient = row is not None and row.geometry == "gradient"
    return ("mccandlish" if noise else "linear") if by_gradient else ("sqrt-capped" if noise else "joint")


def _value(noise: Prediction | None) -> float | None:
    return None if noise is None else noise.value


def _decay(rule: str, base: Scale, target: Scale, settings: Settings, lr: float, target_lr: float) -> Prediction | None:
    if settings.weight_decay == 0:
        return None
    batch, tokens = base.batch or 1.0, base.tokens or 1.0  # open at the base: then the same at both, only ratios count
    at_base = DecaySettings(lr, settings.weight_decay, batch, tokens, None, base.width)
    at = target.batch or batch, target.tokens or tokens
    at_target = DecaySettings(target_lr, settings.weight_decay, *at, None, target.width)
    return decayed(rule, at_base, at_target)


def _betas(base: Scale, target: Scale, settings: Settings) -> tuple[tuple[float, ...] | None, str]:
    """The target's betas, or None and why the base's cannot follow the batch."""
    k = ratio(target.batch, base.batch)
    if settings.betas is None or k == 1:
        return settings.betas, ""
    try:
        return moved_betas(settings.betas, k), ""
    except UsageError as error:
        return None, str(error)


def _thinned(schedule: Schedule, points: int = 200) -> tuple[tuple[float, float], ...]:
    """(progress, factor) at no more than `points` steps, both ends among them."""
    last = schedule.steps - 1
    kept = sorted({round(i * last / (points - 1)) for i in range(points)})
    return tuple(((t + 0.5) / schedule.steps, schedule.at(t)) for t in kept)


def schedule_of(recipe_schedule: Callable[[float], float], steps: int) -> Schedule:
    """A recipe's schedule (progress -> factor) as an array over its steps."""
    return from_array([recipe_schedule((t + 0.5) / steps) for t in range(steps)], name="recipe")
