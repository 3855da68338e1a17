"""Batch size and duration: the one table of rules for learning rate, betas, eps and weight decay.

k = B/B0, r = D/D0: one optimizer step sees k times the data, so the run has r/k times the steps. B_n is the noise scale
(of the theory: tr(HS)/(G'HG), in practice tr S/|G|^2). Plans apply a rule as multipliers, forecasts as a factor on the
base's number; what carries a factor says so (`Carried`, Plan.carries), and nothing is multiplied by it twice.
betas: beta^k keeps the averaging half-life in samples (the SDE's 1 - k (1 - beta), to first order); other averages of
which the size does not count follow it (Muon's momentum, RMSprop's alpha, Adadelta's rho). SGD's momentum is a sum,
which sets the size of its step: it stays, for the linear rule is one at fixed momentum (1706.02677; the rate that
counts is lr / (1 - momentum), 1711.00489). Published exponents of the duration contradict each other (D^+.31 to
D^-.56), so the default leaves the rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from hptransfer.core.errors import UsageError
from hptransfer.core.optimizers import Decay
from hptransfer.core.recipe import Scale
from hptransfer.core.rules import Geometry

T = TypeVar("T")
Basis = Literal["derived", "published", "heuristic", "none"]
STEP = ("sign", "relative", "spectral")
"""Steps that do not see the gradient's size, so that noise averages as k^-1/2 per sample."""


@dataclass(frozen=True)
class BatchRule:
    """How the best rate follows the batch.

    shape: (batch, noise scale) -> lr up to a constant; needs_noise: whether B_n enters. geometries: of the optimizers
    it holds for. eps: the exponent of k in eps, under a sign step. holds: where; source.
    """

    name: str
    shape: Callable[[float, float], float]
    geometries: tuple[Geometry, ...]
    holds: str
    source: str
    needs_noise: bool = False
    eps: float = 0.0
    basis: Basis = "derived"


@dataclass(frozen=True)
class DurationRule:
    """lr ~ steps^exponent at one batch, with the exponent's interval over data sets."""

    name: str
    exponent: float
    interval: tuple[float, float]
    holds: str
    source: str


@dataclass(frozen=True)
class DecayRule:
    """wd ~ lr^lr batch^batch tokens^tokens width^width, for decoupled decay; keeps: what stays the same.

    carries: the batch rule whose lr is already inside: lr must be scaled by exactly that. absolute: it sets wd itself,
    from the target alone (see prediction/laws/decay.py).
    """

    name: str
    keeps: str
    source: str
    lr: float = 0.0
    batch: float = 0.0
    tokens: float = 0.0
    width: float = 0.0
    carries: str = ""
    absolute: bool = False
    basis: Basis = "derived"

    def factor(self, **ratios: float) -> float:
        """The ratio of wd for target/base ratios of lr, batch, tokens and width, each 1 where not given."""
        powers = {axis: getattr(self, axis) for axis in ("batch", "lr", "tokens", "width")}
        up = math.prod(ratios.get(axis, 1.0) ** power for axis, power in powers.items() if power > 0)
        return up / math.prod(ratios.get(axis, 1.0) ** -power for axis, power in powers.items() if power < 0)


_BELOW = "both batches << B_n; the noise of examples is independent"

BATCH_RULES: Mapping[str, BatchRule] = {
    rule.name: rule
    for rule in (
        BatchRule("constant", lambda b, n: 1.0, ("gradient", *STEP), "the batch does not matter", "no change"),
        BatchRule("linear", lambda b, n: b, ("gradient",), f"SGD; {_BELOW}", "arXiv:1706.02677; 1511.06251"),
        BatchRule(
            "mccandlish",
            lambda b, n: 1 / (1 + n / b),
            ("gradient",),
            "SGD, any batch: linear, then flat; the noise of examples is independent",
            "arXiv:1812.06162 eq. 2.6",
            needs_noise=True,
        ),
        BatchRule("sqrt", lambda b, n: b**0.5, STEP, f"Adam as an SDE; {_BELOW}", "arXiv:2205.10287", eps=-0.5),
        BatchRule(
            "sqrt-capped",
            lambda b, n: min(b, n) ** 0.5,
            STEP,
            "Adam; no growth above B_n, as measured on a public LLM grid",
            "heuristic",
            needs_noise=True,
            basis="heuristic",
        ),
        BatchRule(
            "surge",
            lambda b, n: 2 / (math.sqrt(n / b) + math.sqrt(b / n)),
            STEP,
            "sign-like updates with small signal per coordinate; off-diagonal curvature adds up: rises, then falls",
            "arXiv:2405.14578",
            needs_noise=True,
        ),
    )
}
"""Plans call "constant" "none", and leave the betas then, too."""

DURATION_RULES: Mapping[str, DurationRule] = {
    rule.name: rule
    for rule in (
        DurationRule("none", 0.0, (0.0, 0.0), "the best rate stays", "no change"),
        DurationRule(
            "bound",
            -0.5862 / 2,
            (-0.636 / 2, -0.536 / 2),
            "124M Llama on SlimPajama, AdamW, schedules that decay to zero; fixed batch",
            "convex bound T^-1/2 (arXiv:2501.18965), shrunk as fitted on its public runs",
        ),
    )
}

DECAY_RULES: Mapping[str, DecayRule] = {
    rule.name: rule
    for rule in (
        DecayRule("fixed", "wd", "no change", basis="none"),
        DecayRule("independent", "lr wd", "arXiv:2309.14322", lr=-1),
        DecayRule("tokens", "B/(lr wd)", "derived from the EMA view", lr=-1, batch=1),
        DecayRule("timescale", "B/(lr wd D)", "arXiv:2405.13698", lr=-1, batch=1, tokens=-1),
        DecayRule(
            "sqrt-batch",
            "B/(lr wd D) with lr ~ sqrt(B)",
            "public training code (nanochat)",
            batch=0.5,
            tokens=-1,
            carries="sqrt",
        ),
        DecayRule(
            "power-lines", "B/(lr wd D) = 1.084 (D/N)^-.527", "arXiv:2505.13738", absolute=True, basis="published"
        ),
        DecayRule("sqrt-width", "wd/sqrt(width)", "arXiv:2510.15262", width=0.5, basis="published"),
        DecayRule("width", "lr wd of hidden matrices", "muP implementations", width=1),
    )
}
"""Plans call "fixed" "none"; the width they carry parameter by parameter, so the last three are for forecasts."""


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

    batch: a rule that needs no noise scale, "none", or the default: "linear" for gradient steps, else "sqrt".
    duration: a rule, or "power:E" for an exponent of the tokens that the user has measured. decays: what weight decay
    does; the rules' wd is the one that lr multiplies. An axis that either scale leaves open does not count.
    Raises UsageError where a rule's name is unknown or it cannot serve a plan.
    """
    k, r = _ratio(target.batch, base.batch), _ratio(target.tokens, base.tokens)
    name = batch if batch != "default" else ("linear" if geometry == "gradient" else "sqrt")
    free = {"none": BATCH_RULES["constant"]} | {n: rule for n, rule in BATCH_RULES.items() if not rule.needs_noise}
    rule = _named(free, "batch rule", name)
    lr = rule.shape(k, 1.0) * _duration(duration, k, r)
    width_free = {n: row for n, row in DECAY_RULES.items() if not (row.absolute or row.width)}
    kept = _named({"none": DECAY_RULES["fixed"]} | width_free, "decay rule", decay)
    if k == r == 1.0:
        return Horizon()
    refuse_other_rate(kept, lr=lr, batch=k)
    wd = kept.factor(lr=lr, batch=k, tokens=r) * _decays_itself(decays, geometry, lr, k**rule.eps, kept)
    eps = k**rule.eps if geometry in {"sign", "relative"} else 1.0
    why = (
        f"batch x {k:g} ({name}), tokens x {r:g} (duration {duration}): lr x {lr:.4g}, betas^{k:g}",
        f"weight decay x {wd:.4g} ({decay})",
    )
    moved = {"learning rate": [("batch", rule.shape(k, 1.0)), ("tokens", _duration(duration, k, r))]}
    moved["weight decay"] = [("batch", k**kept.batch), ("tokens", r**kept.tokens)] if wd != 1 else []
    carries = {what: tuple(axis for axis, factor in axes if factor != 1) for what, axes in moved.items()}
    return Horizon(lr, wd, eps, 1.0 if name in {"none", "constant"} else k, carries, why)


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
        return (r / k) ** DURATION_RULES[rule].exponent
    name, _, exponent = rule.partition(":")
    try:
        if name == "power":
            return r ** float(exponent)
    except ValueError:
        pass
    raise UsageError(
        f"Duration rule {rule!r} is unknown; use one of {', '.join(DURATION_RULES)}, or 'power:E' with a number E."
    )


def _named(table: Mapping[str, T], what: str, name: str) -> T:
    if name not in table:
        raise UsageError(f"The {what} {name!r} is unknown or needs more than a plan knows; use {', '.join(table)}.")
    return table[name]
