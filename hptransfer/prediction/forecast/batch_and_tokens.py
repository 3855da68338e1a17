"""Factors for batch, tokens and schedule: the joint rule by default, single rules by name, alternatives beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import BATCH_RULES, DURATION_RULES, JOINT, measured_exponent
from hptransfer.core.horizon.evidence import SCATTER
from hptransfer.core.training.recipe import Scale
from hptransfer.prediction.forecast.transfer import NORMAL_90, Factor
from hptransfer.prediction.laws.batch_rules import lr_at_batch
from hptransfer.prediction.provenance import Kind
from hptransfer.prediction.schedules.schedule import Schedule
from hptransfer.prediction.schedules.schedule_transfer import transfer_lr, transfer_shape


def batch_and_tokens(
    base: Scale, target: Scale, *, batch: str, duration: str, noise_scale: float | None = None
) -> list[Factor]:
    """The rate's factors for another batch and other tokens; one factor for both where both rules are "joint".

    batch: a rule of core/horizon/rules.py. duration: one of its duration rules ("bound" is left to
    `schedule_factor`). Either may be "power:E", an exponent that the user measured. noise_scale: in the unit of the
    batches.
    Raises UsageError for an unknown rule, or one taken further than it holds without a measured noise scale.
    """
    k, r = ratio(target.batch, base.batch), ratio(target.tokens, base.tokens)
    if batch == duration == "joint":
        return _joint(k, r)
    return [*batch_factor(base, target, batch, noise_scale=noise_scale), *_tokens(duration, k, r)]


OPTIMUM_SCATTER = NORMAL_90 * SCATTER * math.sqrt(2)
"""Half of the 90% interval of ln(lr*'/lr*) that two optima's own scatter makes, where the exponent itself is known."""


def ratio(target: float | None, base: float | None) -> float:
    """target/base, 1 where either is open."""
    return target / base if target is not None and base is not None else 1.0


def _joint(k: float, r: float) -> list[Factor]:
    if k == r == 1:
        return []
    axes = {axis for axis, moved in (("batch", k), ("tokens", r)) if moved != 1}
    value, half = JOINT.factor(k, r), JOINT.reach(k, r)
    law = f"joint rule batch^{JOINT.batch:.2f} tokens^{JOINT.tokens:.2f}"
    source = f"{max(JOINT.sources)} data sets (core/horizon/evidence.py); interval for a new one"
    ends = value, value * math.exp(-half), value * math.exp(half)
    assumptions = ("this data set is one like those", "the same schedule over the run")
    return [Factor("learning rate", frozenset(axes), *ends, law, source, assumptions, Kind("published", "none"))]


def batch_factor(base: Scale, target: Scale, rule: str, *, noise_scale: float | None = None) -> list[Factor]:
    """lr(B) under a named rule; none where the batch stays.

    Raises UsageError where a rule that needs small batches is taken further than its reach and B_n was not measured.
    """
    if base.batch is None or target.batch is None or base.batch == target.batch:
        return []
    k, exponent = target.batch / base.batch, measured_exponent(rule)
    if exponent is not None:
        value, half = k**exponent, math.exp(OPTIMUM_SCATTER)
        told = f"batch^{exponent:g}", "exponent measured by the user", ("it goes on as a power law",)
        ends = value, value / half, value * half
        return [Factor("learning rate", frozenset({"batch"}), *ends, *told, Kind("given", "none"))]
    if rule in BATCH_RULES and noise_scale is None and max(k, 1 / k) > BATCH_RULES[rule].reach * (1 + 1e-9):
        raise UsageError(
            f"The batch changes {k:.4g} times, and rule {rule!r} holds only while both batches stay far below the "
            f"noise scale: without a measured one it is taken over at most {BATCH_RULES[rule].reach:g} times. Measure "
            "it (--noise, or noise=), or use the rule 'joint', which comes with an interval."
        )
    at = lr_at_batch(rule, 1.0, base.batch, target.batch, noise_scale=noise_scale)
    return [Factor.between("learning rate", {"batch"}, 1.0, at)]


def _tokens(rule: str, k: float, r: float) -> list[Factor]:
    """lr(T) at the target's batch; "none" and a measured exponent keep the interval of an optimum's own scatter."""
    if r == 1 or rule == "bound":
        return []
    if rule == "joint":
        exponent, half = JOINT.tokens, JOINT.reach(1.0, r)
        law, source, basis = f"tokens^{exponent:.2f}", DURATION_RULES["joint"].source, "published"
    elif rule == "none":
        half = math.hypot(JOINT.reach(1.0, r), JOINT.tokens * math.log(r))
        exponent, law, source, basis = 0.0, "the rate stays over tokens", "no change", "given"
    else:
        exponent = measured_exponent(rule)
        if exponent is None:
            raise UsageError(
                f"Duration rule {rule!r} is unknown; use {', '.join(DURATION_RULES)}, or 'power:E' with a number E."
            )
        law, source, basis, half = f"tokens^{exponent:g}", "exponent measured by the user", "given", OPTIMUM_SCATTER
    value = r**exponent
    ends = value, value * math.exp(-half), value * math.exp(half)
    return [Factor("learning rate", frozenset({"tokens"}), *ends, law, source, (), Kind(basis, "none"))]


def schedule_factor(base: Schedule, target: Schedule) -> list[Factor]:
    """Another schedule and horizon together: the convex bound's ratio with the measured shrinkage."""
    if base.steps == target.steps and base.name == target.name:
        return []
    return [Factor.between("learning rate", {"tokens", "schedule"}, 1.0, transfer_lr(1.0, base, target).prediction)]


def shape_factor(base: Schedule, target: Schedule) -> list[Factor]:
    """Another shape of the schedule: the bound's ratio at one length; none where the shape stays (within .02)."""
    progress = (np.arange(200) + 0.5) / 200
    shapes = [[s.at_progress(x) / float(s.factors.max()) for x in progress] for s in (base, target)]
    if float(np.abs(np.array(shapes[0]) - np.array(shapes[1])).max()) < SAME_SHAPE:
        return []
    return [Factor.between("learning rate", {"schedule"}, 1.0, transfer_shape(1.0, base, target).prediction)]


SAME_SHAPE = 0.02
"""Schedules whose factors differ by less, at equal progress, count as one: a warm-up of other steps is no new shape."""

Alternative = tuple[float, float, str]
ALTERNATIVES: Mapping[str, Alternative] = {
    "keep the rate": (0.0, 0.0, "no change"),
    "sqrt(B)": (0.5, 0.0, "2205.10287"),
    "sqrt(B) (T/B)^-.29": (0.5 + 0.293, -0.293, "2205.10287 with the bound of 2501.18965, shrunk"),
    "T^-.32": (0.0, -0.32, "2409.19913"),
    "B^.62 T^-.56": (0.62, -0.56, "Filatov et al. 2025, Scion"),
    "B^.30": (0.30, 0.01, "the Step Law grid, 2503.04715, fitted here"),
}
"""Published or common rules: exponents of batch and tokens, source. scripts/bench_factors.py scores them by regret."""


def alternatives(base: Scale, target: Scale) -> str:
    """The factor under each of them, in words; empty where neither batch nor tokens move."""
    k, r = ratio(target.batch, base.batch), ratio(target.tokens, base.tokens)
    if k == r == 1:
        return ""
    return "; ".join(f"{name} x {k**b * r**t:.3g} ({source})" for name, (b, t, source) in ALTERNATIVES.items())
