"""Batch size and duration: how learning rate, betas, eps and weight decay change with k = B/B0 and r = D/D0.

One optimizer step sees k times the data, so the run has r/k times the steps. Named rules where publications disagree:

  batch "sqrt"    Adam as an SDE (Malladi et al. 2022, 2205.10287): lr k^1/2, eps k^-1/2. Default for sign and spectral
                  steps: their step size does not see the gradient's size, so noise averages as k^-1/2 per sample.
  batch "linear"  SGD as an SDE (Li et al. 2017, 1511.06251; Goyal et al. 2017, 1706.02677): lr k. Default for gradient
                  steps.
  batch "none"    leave lr. Above the critical batch neither rule holds: prediction/batch.py has the saturating ones.
  betas           beta^k: the averaging half-life in samples is kept (the SDE's 1 - k (1 - beta), to first order).
  decay "timescale"  tau = B / (lr wd D) epochs is kept (Wang & Aitchison 2024, 2405.13698): wd k / (lr ratio x r).
                  Default.
  decay "none"    leave wd.
  duration "none" leave lr. Default, because published exponents contradict each other (D^+.31 to D^-.56).
  duration "power:E"  lr r^E, an exponent the user has measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from hptransfer.core.errors import UsageError
from hptransfer.core.recipe import Scale
from hptransfer.core.rules import Geometry


@dataclass(frozen=True)
class Horizon:
    """Ratios target/base that hold for every parameter.

    lr, weight_decay, eps: multipliers; beta_power: betas are raised to it; why: the rules, in order.
    """

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0
    beta_power: float = 1.0
    why: tuple[str, ...] = ()


def horizon(
    target: Scale,
    base: Scale,
    geometry: Geometry,
    *,
    batch: str = "default",
    duration: str = "none",
    decay: str = "timescale",
) -> Horizon:
    """The multipliers for a target's batch and tokens against a base's.

    An axis that either scale leaves open does not count. Raises UsageError where a rule's name is unknown.
    """
    k, r = _ratio(target.batch, base.batch), _ratio(target.tokens, base.tokens)
    rule = batch if batch != "default" else ("linear" if geometry == "gradient" else "sqrt")
    exponent = _named({"sqrt": 0.5, "linear": 1.0, "none": 0.0}, "batch rule", rule)
    lr = k**exponent * r ** _duration_exponent(duration)
    wd = k / (lr * r) if _named({"timescale": True, "none": False}, "decay rule", decay) else 1.0
    eps = k**-0.5 if rule == "sqrt" and geometry == "sign" else 1.0
    if k == r == 1.0:
        return Horizon()
    why = (
        f"batch x {k:g} ({rule}), tokens x {r:g} (duration {duration}): lr x {lr:.4g}, betas^{k:g}",
        f"weight decay x {wd:.4g} ({decay})",
    )
    return Horizon(lr, wd, eps, k if rule != "none" else 1.0, why)


def _ratio(target: float | None, base: float | None) -> float:
    return target / base if target is not None and base is not None else 1.0


def _duration_exponent(rule: str) -> float:
    if rule == "none":
        return 0.0
    name, _, exponent = rule.partition(":")
    try:
        if name == "power":
            return float(exponent)
    except ValueError:
        pass
    raise UsageError(f"Duration rule {rule!r} is unknown; use 'none' or 'power:E' with a number E.")


def _named(table: dict[str, float] | dict[str, bool], what: str, name: str) -> float:
    if name not in table:
        raise UsageError(f"The {what} {name!r} is unknown; use one of {', '.join(table)}.")
    return table[name]
