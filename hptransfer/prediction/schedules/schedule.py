"""Learning-rate schedules as plain arrays: the factor on the base learning rate at every optimizer step.

Step t runs from 0 to T-1. A decay that ends at `final` reaches it at step T, one past the last, so that no step is
wasted at a rate of zero: cosine is (1 + cos(pi t/T))/2, linear is 1 - t/T, and a cooldown of c steps is 1 - j/c for
j = 0..c-1. These are the conventions of the published bound (Schaipp et al. 2025, arXiv:2501.18965), and the anchors
in tests/prediction/test_convex_bound.py hold for no other choice that was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hptransfer.core.errors import UsageError

Array = np.ndarray
Shape = Literal["linear", "1-sqrt", "cosine"]

_SHAPES: dict[str, tuple[Callable[[Array], Array], str]] = {
    "linear": (lambda u: 1 - u, "1 - u"),
    "1-sqrt": (lambda u: 1 - np.sqrt(u), "1 - math.sqrt(u)"),
    "cosine": (lambda u: (1 + np.cos(np.pi * u)) / 2, "(1 + math.cos(math.pi * u)) / 2"),
}


@dataclass(frozen=True, eq=False)
class Schedule:
    """A schedule of a fixed number of steps.

    name: for tables and plots. factors: (T,), what multiplies the base learning rate at step t, read-only.
    lines: the same as Python statements that return the factor of an integer `step` in 0..T-1 (using only `math`).
    """

    name: str
    factors: Array
    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        self.factors.setflags(write=False)

    @property
    def steps(self) -> int:
        return len(self.factors)

    def at(self, step: int) -> float:
        """The factor at a step; steps before the first and after the last get the first and last factor."""
        return float(self.factors[min(max(step, 0), self.steps - 1)])

    def at_progress(self, progress: float) -> float:
        """The factor at a progress in (0, 1), step t of T having progress (t + 1/2)/T: a `Recipe.schedule`."""
        return float(np.interp(progress * self.steps - 0.5, np.arange(self.steps), self.factors))


def constant(steps: int, *, warmup: int = 0) -> Schedule:
    """Factor 1 throughout, after `warmup` steps of linear warm-up."""
    inner = _steps(steps, warmup)
    return with_warmup(Schedule("constant", np.ones(inner), ("return 1.0",)), warmup)


def cosine(steps: int, *, final: float = 0.0, warmup: int = 0) -> Schedule:
    """Half a cosine from 1 to `final` over the steps after warm-up (Loshchilov & Hutter, arXiv:1608.03983)."""
    return _decay("cosine", "cosine", _steps(steps, warmup), final, warmup)


def linear(steps: int, *, final: float = 0.0, warmup: int = 0) -> Schedule:
    """A straight line from 1 to `final` over the steps after warm-up."""
    return _decay("linear", "linear", _steps(steps, warmup), final, warmup)


def wsd(steps: int, *, cooldown: float = 0.2, shape: Shape = "linear", final: float = 0.0, warmup: int = 0) -> Schedule:
    """Warm-up, constant, then a cooldown over the last int(cooldown * steps) steps (arXiv:2404.06395, 2405.18392).

    cooldown: fraction of all steps, warm-up included, in [0, 1]. shape: "linear", "1-sqrt" or "cosine".
    Raises UsageError where warm-up and cooldown do not fit into the run.
    """
    inner, count = _steps(steps, warmup), int(_fraction("cooldown", cooldown) * steps)
    if count > inner:
        raise UsageError(
            f"wsd: warmup={warmup} and a cooldown of {count} steps do not fit into {steps} steps. Shorten one of them."
        )
    decay = _decay(f"wsd {cooldown:g} {shape}", shape, count, final, 0) if count else constant(1)
    factors = np.concatenate([np.ones(inner - count), decay.factors[:count]])
    lines = (f"if step < {inner - count}:", "    return 1.0", f"step -= {inner - count}", *decay.lines)
    return with_warmup(Schedule(f"wsd {cooldown:g} {shape}", factors, lines), warmup)


def power(steps: int, *, exponent: float = 0.5, hold: int = 1, warmup: int = 0) -> Schedule:
    """1 for `hold` steps, then ((t + 1)/hold)^-exponent: inverse square root at 1/2 (arXiv:1706.03762 sec. 5.3)."""
    inner = _steps(steps, warmup)
    if hold < 1 or not np.isfinite(exponent):
        raise UsageError(f"power: hold={hold!r} must be >= 1 and exponent={exponent!r} finite.")
    factors = np.maximum(1.0, (np.arange(inner) + 1) / hold) ** -exponent
    lines = (f"return max(1.0, (step + 1) / {hold}) ** {-exponent!r}",)
    return with_warmup(Schedule(f"power {exponent:g}", factors, lines), warmup)


def polynomial(steps: int, *, exponent: float = 2.0, final: float = 0.0, warmup: int = 0) -> Schedule:
    """final + (1 - final)(1 - t/T)^exponent over the steps after warm-up."""
    inner, final = _steps(steps, warmup), _fraction("final", final)
    if not exponent > 0:
        raise UsageError(f"polynomial: exponent={exponent!r} must be > 0.")
    factors = final + (1 - final) * (1 - np.arange(inner) / inner) ** exponent
    lines = (f"return {final!r} + {1 - final!r} * (1 - step / {inner}) ** {exponent!r}",)
    return with_warmup(Schedule(f"polynomial {exponent:g}", factors, lines), warmup)


def from_array(values: Sequence[float] | Array, *, name: str = "custom") -> Schedule:
    """Any array (T,) of factors (or of learning rates, with a base learning rate of 1) as a schedule.

    Raises UsageError where it is empty, not one-dimensional, or holds a negative or non-finite value.
    """
    factors = np.array(values, dtype=np.float64)
    if factors.ndim != 1 or not factors.size:
        raise UsageError(f"A schedule is a non-empty one-dimensional array, but got shape {factors.shape}.")
    bad = np.flatnonzero(~(np.isfinite(factors) & (factors >= 0)))
    if bad.size:
        raise UsageError(
            f"A schedule's factors must be finite and >= 0, but entry {bad[0]} is {factors[bad[0]]} "
            f"({bad.size} bad of {factors.size})."
        )
    return Schedule(name, factors, _knot_lines(factors))


def with_warmup(schedule: Schedule, warmup: int) -> Schedule:
    """`warmup` steps of a linear ramp (t + 1)/warmup up to the schedule's first factor, then the schedule."""
    if not warmup:
        return schedule
    ramp = (np.arange(warmup) + 1) / warmup * schedule.factors[0]
    scale = f" * {float(schedule.factors[0])!r}" if schedule.factors[0] != 1 else ""
    lines = (f"if step < {warmup}:", f"    return (step + 1) / {warmup}{scale}", f"step -= {warmup}")
    return Schedule(schedule.name, np.concatenate([ramp, schedule.factors]), lines + schedule.lines)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "wsd": wsd,
    "power": power,
    "polynomial": polynomial,
}
"""The schedules that `make_schedule` makes by name."""


def make_schedule(name: str, steps: int, **options: Any) -> Schedule:
    """A schedule by name with its function's options. Raises UsageError for an unknown name or option."""
    if name not in SCHEDULES:
        raise UsageError(f"Unknown schedule {name!r}: choose from {', '.join(SCHEDULES)}, or give an array.")
    try:
        return SCHEDULES[name](steps, **options)
    except TypeError as error:
        raise UsageError(f"Schedule {name!r}: {error}") from error


def _decay(name: str, shape: str, steps: int, final: float, warmup: int) -> Schedule:
    if shape not in _SHAPES:
        raise UsageError(f"Unknown cooldown shape {shape!r}: choose from {', '.join(_SHAPES)}.")
    final = _fraction("final", final)
    function, text = _SHAPES[shape]
    factors = final + (1 - final) * function(np.arange(steps) / steps)
    lines = (f"u = step / {steps}", f"return {final!r} + {1 - final!r} * ({text})")
    return with_warmup(Schedule(name, factors, lines), warmup)


def _knot_lines(factors: Array, tolerance: float = 1e-12) -> tuple[str, ...]:
    """Statements that interpolate linearly between the fewest consecutive knots that reproduce the array."""
    bends = np.abs(np.diff(factors, 2)) > tolerance * max(1.0, float(factors.max()))
    at = np.unique(np.concatenate([[0], np.flatnonzero(bends) + 1, [len(factors) - 1]]))
    return (
        f"steps = {at.tolist()!r}",
        f"values = {factors[at].tolist()!r}",
        "i = max(j for j, s in enumerate(steps) if s <= step)",
        "if steps[i] == step or i + 1 == len(steps):",
        "    return values[i]",
        "return values[i] + (values[i + 1] - values[i]) * (step - steps[i]) / (steps[i + 1] - steps[i])",
    )


def _steps(steps: int, warmup: int) -> int:
    """The steps left after warm-up."""
    if steps < 1 or warmup < 0 or steps != int(steps) or warmup != int(warmup):
        raise UsageError(f"A schedule needs whole steps >= 1 and warmup >= 0, but got ({steps=!r}, {warmup=!r}).")
    if warmup >= steps:
        raise UsageError(f"warmup={warmup} leaves no step of {steps}. Use a shorter warm-up or a longer run.")
    return int(steps - warmup)


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise UsageError(f"{name}={value!r} must be a fraction between 0 and 1.")
    return float(value)
