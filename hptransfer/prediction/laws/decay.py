"""Weight decay at another scale: rules that carry it from a base run to a target, each by name.

AdamW multiplies a weight by 1 - lr wd at every step, so its weights are an exponential average of past updates with
the timescale 1/(lr wd) in steps, and tau = B/(lr wd D) in passes over the run's own data (Wang & Aitchison 2024,
arXiv:2405.13698). Rules differ in what they keep:

    fixed         wd itself
    independent   lr wd: the timescale in steps (decay "independent" of the rate, as in arXiv:2309.14322)
    tokens        B/(lr wd): the timescale in tokens
    timescale     B/(lr wd D): the timescale as a fraction of the run (arXiv:2405.13698; 2505.13738 sec. 2)
    sqrt-batch    wd sqrt(B/B0) D0/D: `timescale` with lr ~ sqrt(B) already inside, so that lr must be scaled by exactly
                  that and nothing else (as used in public training code)
    power-lines   tau = 1.084 (D/N)^-.527 (arXiv:2505.13738): absolute, needs no base decay
    sqrt-width    wd ~ sqrt(width) (arXiv:2510.15262), under muP with lr ~ 1/width
    width         wd ~ width: keeps lr wd of hidden matrices under muP; "x m" in many implementations

`carries` names the factors of lr that a rule's factor on wd already contains: whoever composes rules must not count
them again. All rules are for decoupled decay (AdamW's lr wd w).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hptransfer.core.errors import UsageError
from hptransfer.prediction.provenance import Basis, Kind, Prediction


@dataclass(frozen=True)
class DecaySettings:
    """A run's settings. lr: peak rate; weight_decay: AdamW's; batch and tokens in one unit; params: N; width.

    Only what a rule needs has to be given. Raises UsageError where a given value is not positive (decay: >= 0).
    """

    lr: float
    weight_decay: float = 0.0
    batch: float | None = None
    tokens: float | None = None
    params: float | None = None
    width: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            fine = value is None or (math.isfinite(value) and (value > 0 or (name == "weight_decay" and value == 0)))
            if not fine:
                raise UsageError(f"DecaySettings({name}={value!r}) must be positive and finite.")


@dataclass(frozen=True)
class DecayRule:
    """One rule: (base, target) -> weight decay; needs: settings it reads; carries: factors of lr that it contains."""

    name: str
    function: Callable[[DecaySettings, DecaySettings], float]
    needs: tuple[str, ...]
    source: str
    keeps: str
    kind: Kind
    carries: tuple[str, ...] = ()


def steps_timescale(lr: float, weight_decay: float) -> float:
    """1/(lr wd): steps over which the weights average past updates; inf without decay."""
    return math.inf if weight_decay == 0 else 1 / (lr * weight_decay)


def run_timescale(settings: DecaySettings) -> float:
    """tau = B/(lr wd D), in passes over the run's data (arXiv:2405.13698, in the notation of 2505.13738)."""
    _need(settings, ("batch", "tokens"), "run_timescale")
    return float(settings.batch) * steps_timescale(settings.lr, settings.weight_decay) / float(settings.tokens)  # type: ignore[arg-type]


def power_lines_timescale(tokens_per_param: float) -> float:
    """tau_opt = 1.084 (D/N)^-.527 (arXiv:2505.13738; constant and exponent as quoted in public sources)."""
    return 1.084 * tokens_per_param**-0.527


def _ratio(base: DecaySettings, target: DecaySettings, name: str) -> float:
    return getattr(target, name) / getattr(base, name)


def _fixed(base: DecaySettings, target: DecaySettings) -> float:
    return base.weight_decay


def _independent(base: DecaySettings, target: DecaySettings) -> float:
    return base.weight_decay / _ratio(base, target, "lr")


def _tokens(base: DecaySettings, target: DecaySettings) -> float:
    return _independent(base, target) * _ratio(base, target, "batch")


def _timescale(base: DecaySettings, target: DecaySettings) -> float:
    return _tokens(base, target) / _ratio(base, target, "tokens")


def _sqrt_batch(base: DecaySettings, target: DecaySettings) -> float:
    return base.weight_decay * math.sqrt(_ratio(base, target, "batch")) / _ratio(base, target, "tokens")


def _power_lines(base: DecaySettings, target: DecaySettings) -> float:
    tau = power_lines_timescale(target.tokens / target.params)  # type: ignore[operator]
    return target.batch / (target.lr * target.tokens * tau)  # type: ignore[operator]


def _sqrt_width(base: DecaySettings, target: DecaySettings) -> float:
    return base.weight_decay * math.sqrt(_ratio(base, target, "width"))


def _width(base: DecaySettings, target: DecaySettings) -> float:
    return base.weight_decay * _ratio(base, target, "width")


def _given(exponent: Basis) -> Kind:
    return Kind(exponent, "given")


DECAY_RULES: dict[str, DecayRule] = {
    rule.name: rule
    for rule in (
        DecayRule("fixed", _fixed, (), "no change", "wd", _given("none")),
        DecayRule("independent", _independent, (), "arXiv:2309.14322", "lr wd", _given("derived"), ("lr",)),
        DecayRule("tokens", _tokens, ("batch",), "derived from the EMA view", "B/(lr wd)", _given("derived"), ("lr",)),
        DecayRule(
            "timescale", _timescale, ("batch", "tokens"), "arXiv:2405.13698", "B/(lr wd D)", _given("derived"), ("lr",)
        ),
        DecayRule(
            "sqrt-batch",
            _sqrt_batch,
            ("batch", "tokens"),
            "public training code (nanochat)",
            "B/(lr wd D) with lr ~ sqrt(B)",
            _given("derived"),
            ("lr ~ sqrt(batch)",),
        ),
        DecayRule(
            "power-lines",
            _power_lines,
            ("batch", "tokens", "params"),
            "arXiv:2505.13738",
            "B/(lr wd D) = 1.084 (D/N)^-.527",
            Kind("published", "published"),
            ("lr",),
        ),
        DecayRule("sqrt-width", _sqrt_width, ("width",), "arXiv:2510.15262", "wd/sqrt(width)", _given("published")),
        DecayRule("width", _width, ("width",), "muP implementations", "lr wd of hidden matrices", _given("derived")),
    )
}


def weight_decay_at(rule: str, base: DecaySettings, target: DecaySettings) -> Prediction:
    """The weight decay of the target run (its own `weight_decay` is ignored) under a named rule.

    Raises UsageError for an unknown rule, a setting that the rule needs and lacks, lr wd >= 1 (the weights would be
    wiped out in a step), or a target rate that contradicts what the rule carries.
    """
    if rule not in DECAY_RULES:
        raise UsageError(f"Unknown decay rule {rule!r}: choose from {', '.join(DECAY_RULES)}.")
    chosen = DECAY_RULES[rule]
    _need(target, chosen.needs, rule)
    if rule != "power-lines":
        _need(base, chosen.needs, rule)
    if rule == "sqrt-batch":
        _check_sqrt(base, target)
    value = chosen.function(base, target)
    if value * target.lr >= 1:
        raise UsageError(
            f"Decay rule {rule!r} gives wd = {value:.3g}; times lr = {target.lr:.3g} that is >= 1, which wipes the "
            "weights out in one step. Check the units of batch and tokens."
        )
    assumptions = (f"keeps {chosen.keeps}", "decoupled decay (AdamW)")
    law, source = f"{rule} weight decay", chosen.source
    return Prediction("weight decay", value, None, None, "1", law, source, assumptions, chosen.kind)


def _check_sqrt(base: DecaySettings, target: DecaySettings) -> None:
    expected = math.sqrt(_ratio(base, target, "batch"))
    if abs(_ratio(base, target, "lr") / expected - 1) > 1e-6:
        raise UsageError(
            f"Decay rule 'sqrt-batch' carries lr ~ sqrt(batch), which makes lr x {expected:.4g}, but the target's is x "
            f"{_ratio(base, target, 'lr'):.4g}. Use 'timescale', which takes any lr."
        )


def _need(settings: DecaySettings, names: tuple[str, ...], rule: str) -> None:
    missing = [name for name in names if getattr(settings, name) is None]
    if missing:
        raise UsageError(f"Decay rule {rule!r} needs {', '.join(missing)}. Give them in DecaySettings.")
