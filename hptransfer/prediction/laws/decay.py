"""Weight decay at another scale: rules that carry it from a base run to a target, each by name.

AdamW multiplies a weight by 1 - lr wd at every step, so its weights are an exponential average of past updates with
the timescale 1/(lr wd) in steps, and tau = B/(lr wd D) in passes over the run's own data (Wang & Aitchison 2024,
arXiv:2405.13698). The rules are rows of core/horizon/rules.py, where plans read them too: exponents of the ratios
target/base, and what is kept. `power-lines` alone is absolute: tau = 1.084 (D/N)^-.527 (arXiv:2505.13738). `timescale`
takes any rate; `sqrt-batch` is it with lr ~ sqrt(B) already inside, so that lr must be scaled by exactly that.
All rules are for decoupled decay (AdamW's lr wd w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import DECAY_RULES, DecayRule, refuse_other_rate
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


def _needs(rule: DecayRule) -> tuple[str, ...]:
    """The settings that a rule reads beside lr."""
    return ("batch", "tokens", "params") if rule.absolute else tuple(a for a in _AXES if getattr(rule, a))


_BASES: dict[str, Basis] = {"derived": "derived", "published": "published", "heuristic": "given", "none": "none"}
_AXES = ("batch", "tokens", "width")


def _value(rule: DecayRule, base: DecaySettings, target: DecaySettings) -> float:
    if not rule.absolute:
        ratios = {axis: _ratio(base, target, axis) for axis in ("lr", *_needs(rule))}
        return base.weight_decay * rule.factor(**ratios)
    tau = power_lines_timescale(target.tokens / target.params)  # type: ignore[operator]
    return target.batch / (target.lr * target.tokens * tau)  # type: ignore[operator]


def weight_decay_at(rule: str, base: DecaySettings, target: DecaySettings) -> Prediction:
    """The weight decay of the target run (its own `weight_decay` is ignored) under a named rule.

    Raises UsageError for an unknown rule, a setting that the rule needs and lacks, lr wd >= 1 (the weights would be
    wiped out in a step), or a target rate that contradicts what the rule carries.
    """
    if rule not in DECAY_RULES:
        raise UsageError(f"Unknown decay rule {rule!r}: choose from {', '.join(DECAY_RULES)}.")
    chosen = DECAY_RULES[rule]
    _need(target, _needs(chosen), rule)
    if not chosen.absolute:
        _need(base, _needs(chosen), rule)
    if chosen.carries:
        refuse_other_rate(chosen, lr=_ratio(base, target, "lr"), batch=_ratio(base, target, "batch"))
    value = _value(chosen, base, target)
    if value * target.lr >= 1:
        raise UsageError(
            f"Decay rule {rule!r} gives wd = {value:.3g}; times lr = {target.lr:.3g} that is >= 1, which wipes the "
            "weights out in one step. Check the units of batch and tokens."
        )
    assumptions = (f"keeps {chosen.keeps}", "decoupled decay (AdamW)")
    law, kind = f"{rule} weight decay", Kind(_BASES[chosen.basis], "published" if chosen.absolute else "given")
    return Prediction("weight decay", value, None, None, "1", law, chosen.source, assumptions, kind)


def _need(settings: DecaySettings, names: tuple[str, ...], rule: str) -> None:
    missing = [name for name in names if getattr(settings, name) is None]
    if missing:
        raise UsageError(f"Decay rule {rule!r} needs {', '.join(missing)}. Give them in DecaySettings.")
