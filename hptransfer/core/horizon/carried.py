"""Batch size and duration: the one table of rules for learning rate, betas, eps and weight decay.

k = B/B0, r = D/D0: one optimizer step sees k times the data, so the run has r/k times the steps. B_n is the noise scale
(of the theory: tr(HS)/(G'HG), in practice tr S/|G|^2). Plans apply a rule as multipliers, forecasts as a factor on the
base's number; what carries a factor says so (`Carried`, Plan.carries), and nothing is multiplied by it twice.
betas: beta^k keeps the averaging half-life in samples (the SDE's 1 - k (1 - beta), to first order); other averages of
which the size does not count follow it (Muon's momentum, RMSprop's alpha, Adadelta's rho). SGD's momentum is a sum,
which sets the size of its step: it stays, for the linear rule is one at fixed momentum (1706.02677; the rate that
counts is lr / (1 - momentum), 1711.00489). Published exponents of the duration contradict each other (D^+.31 to
D^-.56), so a plan's default leaves the rate; a forecast takes "joint", the one rule of batch and tokens that
core/horizon/evidence.py makes of all data sets, with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.rules import BATCH_RULES as BATCH_RULES
from hptransfer.core.horizon.rules import DECAY_RULES as DECAY_RULES
from hptransfer.core.horizon.rules import DURATION_RULES as DURATION_RULES
from hptransfer.core.horizon.rules import JOINT as JOINT
from hptransfer.core.horizon.rules import STEP as STEP
from hptransfer.core.horizon.rules import BatchRule as BatchRule
from hptransfer.core.horizon.rules import DecayRule as DecayRule
from hptransfer.core.horizon.rules import measured_batch_rule as measured_batch_rule
from hptransfer.core.horizon.rules import measured_exponent as measured_exponent
from hptransfer.core.optimizers import Decay
from hptransfer.core.rules import Geometry
from hptransfer.core.training.recipe import Scale

T = TypeVar("T")


@dataclass(frozen=True)
class Horizon:
    """Ratios target/base that hold for every parameter.

    lr, weight_decay, eps: multipliers; beta_power: betas are raised to it; carries: quantity -> the axes whose factor
    is in it; why: the rules, in order.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0
    beta_power: float = 1.0
    carries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    why: tuple[str, ...] = ()


def horizon(
    target: Scale,
    base: Scale,
    geometry: Geometry,
    *,
    batch: str = "default",
    duration: str = "none",
    decay: str = "timescale",
    decays: Decay = "decoupled",
) -> Horizon:
    """The multipliers for a target's batch and tokens against a base's.

    batch: a rule that needs no noise scale, "none", "power:E" for a measured exponent, or the default: "linear" for
    gradient steps, else "sqrt". duration: a rule, or "power:E" for a measured exponent of the tokens. decays: what
    weight decay does; the rules' wd is the one that lr multiplies. An axis that either scale leaves open does not
    count. Raises UsageError where a rule's name is unknown or it cannot serve a plan.
    """
    k, r = _ratio(target.batch, base.batch), _ratio(target.tokens, base.tokens)
    name = batch if batch != "default" else ("linear" if geometry == "gradient" else "sqrt")
    free = {"none": BATCH_RULES["constant"]} | {n: rule for n, rule in BATCH_RULES.items() if not rule.needs_noise}
    rule = measured_batch_rule(name) or _named(free, "batch rule", name)
    lr = rule.shape(k, 1.0) * _duration(duration, k, r)
    width_free = {n: row for n, row in DECAY_RULES.items() if not (row.absolute or row.width)}
    kept = _named({"none": DECAY_RULES["fixed"]} | width_free, "decay rule", decay)
    if k == r == 1.0:
        return Horizon()
    refuse_other_rate(kept, lr=lr, batch=k)
    wd = kept.factor(lr=lr, batch=k, tokens=r) * _decays_itself(decays, geometry, lr, k**rule.eps, kept)
    eps = k**rule.eps if geometry in {"sign", "relative"} else 1.0
    why = (
        f"batch x {k:g} ({name}), tokens x {r:g} (duration {duration}): lr x {lr:.4g}, betas^{k:g}{_far(rule, k)}",
        f"weight decay x {wd:.4g} ({decay})",
    )
    moved = {"learning rate": [("batch", rule.shape(k, 1.0)), ("tokens", _duration(duration, k, r))]}
    moved["weight decay"] = [("batch", k**kept.batch), ("tokens", r**kept.tokens)] if wd != 1 else []
    carries = {what: tuple(axis for axis, factor in axes if factor != 1) for what, axes in moved.items()}
    return Horizon(lr, wd, eps, 1.0 if name in {"none", "constant"} else k, carries, why)


def _far(rule: BatchRule, k: float) -> str:
    """Says where a rule is taken further than forecasts take it."""
    if max(k, 1 / k) <= rule.reach:
        return ""
    return f"; beyond x {rule.reach:g} not measured: data sets give batch^{JOINT.batch:.2f} (rule 'joint')"


def moved_betas(betas: Collection[float], k: float, *, least: float = 1.0) -> tuple[float, ...]:
    """beta^k: the same half-life in samples when a step sees k times the data.

    least: the shortest half-life in steps that is accepted. Raises UsageError where one would leave [0, .9999], or
    forget half of its past in fewer steps than that: averages of the base's span in samples then do not exist.
    """
    moved = tuple(beta**k for beta in betas)
    for beta, new in zip(betas, moved, strict=True):
        if new == beta:
            continue
        half_life = math.log(0.5) / math.log(new) if 0 < new < 1 else 0.0
        if new > BETA_MAX:
            raise UsageError(
                f"At {k:.3g} times the batch beta {beta:g} would become {new:.7g}, above {BETA_MAX}: an average over "
                f"{half_life:.3g} steps. Keep the base's betas {tuple(betas)}, or tune them."
            )
        if half_life < least:
            raise UsageError(
                f"At {k:.3g} times the batch beta {beta:g} would become {new:.3g}, whose half-life of {half_life:.2g} "
                f"steps is under {least:g}. Keep the base's betas {tuple(betas)}, or raise the batch "
                f"{math.log(0.5) / math.log(beta) / least:.3g} times at most."
            )
    return moved


def refuse_forgetful(averages: Mapping[str, object], k: float) -> None:
    """Raise UsageError where an average's decay per step, to the power k, forgets half of its past in a quarter step.

    averages: option -> its value at the base, or several, as betas. A plan applies beta^k as it is asked; so far from
    the base it no longer describes an average of the base's.
    """
    for name, values in averages.items():
        for beta in values if isinstance(values, (tuple, list)) else (values,):
            if isinstance(beta, float) and 0 < beta < 1 and beta**k < FORGETFUL:
                raise UsageError(
                    f"At {k:.3g} times the batch {name} {beta:g} would become {beta**k:.2g}, which is no average any "
                    "more. Make the plan with Options(batch='none') and give the optimizer the target's own, or begin "
                    f"at a base whose batch is at most {math.log(FORGETFUL) / math.log(beta):.3g} times smaller."
                )


FORGETFUL = 0.5**4
"""A decay per step of 1/16: a half-life of a quarter of a step."""
BETA_MAX = 0.9999
"""The largest beta that a rule may set: beyond, an average is longer than most of the runs that rules were tried on."""


def _decays_itself(decays: Decay, geometry: Geometry, lr: float, noise: float, rule: DecayRule) -> float:
    """What a rule for wd beside lr becomes for decay that is free of lr, or inside a step that divides by the gradient.

    free of lr: a step shrinks the weight by wd, not lr wd. L2 in a step that does not see the gradient's size: by
    lr wd / rms(gradient), and the gradient, which is mostly noise, has an rms ~ k^-1/2, as eps has (`noise`).
    """
    if rule.basis == "none" or (decays == "l2" and geometry == "gradient"):
        return 1.0
    return {"fixed": lr, "l2": noise, "decoupled": 1.0}[decays]


def carried(ratios: Iterable[Horizon]) -> dict[str, tuple[str, ...]]:
    """Quantity -> the axes that any of the optimizers' ratios carries; {} where none does."""
    axes: dict[str, set[str]] = {}
    for what, held in (item for ratio in ratios for item in ratio.carries.items()):
        axes.setdefault(what, set()).update(held)
    return {what: tuple(sorted(held)) for what, held in axes.items() if held}


def refuse_other_rate(rule: DecayRule, *, lr: float, batch: float) -> None:
    """Raise UsageError where a decay rule carries a batch rule and the rate was scaled (by `lr`) by another."""
    expected = BATCH_RULES[rule.carries].shape(batch, 1.0) if rule.carries else lr
    if abs(lr / expected - 1) > 1e-6:
        raise UsageError(
            f"Decay rule {rule.name!r} carries lr ~ {rule.carries}(batch), which makes lr x {expected:.4g}, but the "
            f"target's is x {lr:.4g}. Use 'timescale', which takes any lr."
        )


class Carried(float):
    """A number that already holds the factors of these axes, as a forecast's learning rate does those of the batch."""

    axes: tuple[str, ...]

    def __new__(cls, value: float, axes: Collection[str] = ()) -> Carried:
        self = super().__new__(cls, value)
        self.axes = tuple(sorted(axes))
        return self


def refuse_twice(quantity: str, value: object, carried: Collection[str], by: str) -> None:
    """Raise UsageError where a number already holds the factor of an axis that `by` carries, too."""
    twice = sorted(set(getattr(value, "axes", ())) & set(carried))
    if twice:
        raise UsageError(
            f"The {quantity} {value:.4g} already holds the factor of {' and '.join(twice)}, and {by} carries it, too: "
            f"it would be applied twice. Give the base's own {quantity} here, or make the plan without scale= and "
            "base_scale= and give it the forecast's."
        )


def _ratio(target: float | None, base: float | None) -> float:
    return target / base if target is not None and base is not None else 1.0


def _duration(rule: str, k: float, r: float) -> float:
    if rule in DURATION_RULES:
        row = DURATION_RULES[rule]
        return (r if row.of == "tokens" else r / k) ** row.exponent
    exponent = measured_exponent(rule)
    if exponent is not None:
        return r**exponent
    raise UsageError(
        f"Duration rule {rule!r} is unknown; use one of {', '.join(DURATION_RULES)}, or 'power:E' with a number E."
    )


def _named(table: Mapping[str, T], what: str, name: str) -> T:
    if name not in table:
        raise UsageError(f"The {what} {name!r} is unknown or needs more than a plan knows; use {', '.join(table)}.")
    return table[name]
