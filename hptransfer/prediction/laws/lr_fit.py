"""The user's own law: how the best learning rate of a sweep drifts with scale, extrapolated with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.statistics import Regression, regress
from hptransfer.prediction.laws.sweep_table import SweepTable
from hptransfer.prediction.provenance import Kind, Prediction

Array = np.ndarray


@dataclass(frozen=True)
class LrFit:
    """ln lr* = intercept + sum_x exponents[x] (ln x - centre[x]), by ordinary least squares.

    exponents with their t-intervals (the drift: 0 means that the rate transfers along x). residual: standard
    deviation of ln lr* around the law. points: optima used; edges: optima left out because they lie at the edge of
    their grid. spans: variable -> (smallest, largest) seen. level: of every interval. _line: the fit itself. fixed:
    exponents that were given. bends: variable -> second-order coefficient of (ln x - centre)^2, with bend_intervals:
    above 0 the law curves upward, and a power law's extrapolation aims too low.
    """

    intercept: float
    exponents: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    centre: dict[str, float]
    residual: float
    points: int
    edges: int
    spans: dict[str, tuple[float, float]]
    level: float
    _line: Regression
    fixed: Mapping[str, float] = field(default_factory=dict[str, float])
    bends: Mapping[str, float] = field(default_factory=dict[str, float])
    bend_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def __str__(self) -> str:
        def told(name: str) -> str:
            low, high = self.intervals[name]
            return f"{name}^{self.exponents[name]:.3f} ({low:.3f} to {high:.3f})"

        terms = [told(name) for name in self.exponents] + [f"{name}^{e:g} (given)" for name, e in self.fixed.items()]
        terms += [f"{name} bends by {b:+.3f} {_ends(self.bend_intervals[name])}" for name, b in self.bends.items()]
        return (
            f"lr* ~ {' '.join(terms)}, {self.level:.0%} intervals, from {self.points} optima scattered by "
            f"{self.residual / math.log(2):.2f} octaves" + (f"; {self.edges} at an edge left out" if self.edges else "")
        )

    def predict(self, **target: float) -> Prediction:
        """The best rate at a target scale, with the t-interval of a new optimum there.

        Raises UsageError where a variable of the fit is missing or not positive.
        """
        needed = [*self.exponents, *self.fixed]
        for name in needed:
            if not target.get(name, 0) > 0:
                raise UsageError(f"The fit needs {', '.join(needed)}; {name}={target.get(name)!r} is no scale.")
        away = {name: math.log(target[name]) - self.centre[name] for name in needed}
        x = np.array([1.0, *(away[name] for name in self.exponents), *(away[name] ** 2 for name in self.bends)])
        middle = float(x @ self._line.coefficients) + sum(e * away[name] for name, e in self.fixed.items())
        reach = self._line.reach(x, level=self.level, new=True)
        return Prediction(
            name="learning rate",
            value=math.exp(middle),
            low=math.exp(middle - reach),
            high=math.exp(middle + reach),
            unit="1",
            law="power law of the own sweep's optima",
            source=f"{self.points} optima, least squares, {self.level:.0%} t-interval of a new optimum",
            assumptions=("the drift goes on as a power law", *self._notes(target)),
            kind=Kind("measured", "measured"),
        )

    def octaves_per_doubling(self, name: str) -> float:
        """Drift of log2 lr* when a variable doubles: its exponent."""
        return self.exponents[name]

    def _notes(self, target: Mapping[str, float]) -> tuple[str, ...]:
        notes = [f"{self.edges} optima at the edge of their grid were left out"] if self.edges else []
        for name, (low, high) in self.spans.items():
            if name in target and not low <= target[name] <= high:
                factor = max(target[name] / high, low / target[name])
                held = "" if name in self.exponents else " and was never varied"
                notes.append(f"{name} is {factor:.3g}x outside the sweep{held}: extrapolated")
        return tuple(notes)


def _ends(interval: tuple[float, float]) -> str:
    return f"({interval[0]:.3f} to {interval[1]:.3f})"


def fit_sweep(
    table: SweepTable,
    *,
    over: Sequence[str] | None = None,
    fixed: Mapping[str, float] | None = None,
    curved: Sequence[str] = (),
    level: float = 0.9,
) -> LrFit:
    """The drift of a table's optima (parabola through the best rate and its neighbours in every cell).

    Cells whose best rate is the smallest or largest tried are left out, and counted. over: the variables to use
    (default: all of params, tokens, batch that vary). Raises UsageError as `fit_optima` does.
    """
    inside = [c for c in table.cells if not c.at_edge]
    scales = [c.variables() for c in inside]
    options: dict[str, Any] = {"over": over, "fixed": fixed, "curved": curved, "level": level}
    return fit_optima(scales, [c.best_lr for c in inside], **options, edges=len(table.cells) - len(inside))


def fit_optima(
    scales: Sequence[Mapping[str, float]],
    lrs: Sequence[float],
    *,
    over: Sequence[str] | None = None,
    fixed: Mapping[str, float] | None = None,
    curved: Sequence[str] = (),
    level: float = 0.9,
    edges: int = 0,
) -> LrFit:
    """The power law through given optima: scales[i] (variable -> value > 0) has its best rate at lrs[i].

    fixed: exponents that are given and not fitted, as {"batch": 0.3}. curved: fitted variables that also get a
    second-order term: learning-rate laws are reported to curve upward in logs (2606.29158). `effective_rates` of lrs
    and weight decays may stand in place of lrs, where the same source finds straight lines.
    Raises UsageError with fewer than 3 optima, fewer than parameters + 1, values that are not positive, a variable
    in `over` that does not vary, or variables that vary only together.
    """
    left_out = f" ({edges} lie at the edge of their grid; widen it)" if edges else ""
    if len(lrs) < 3:
        raise UsageError(f"A drift needs at least 3 optima inside their grids, but there are {len(lrs)}{left_out}.")
    logs = {name: _logs(name, [s[name] for s in scales]) for name in scales[0] if all(name in s for s in scales)}
    y = _logs("lr", lrs)
    given = _given(fixed or {}, logs)
    varying = [name for name, x in logs.items() if np.ptp(x) > 0.01 and name not in given]
    names = list(over) if over is not None else varying
    if not set(curved) <= set(names):
        raise UsageError(f"curved={list(curved)}: only fitted variables can bend; those are {names}.")
    if (not names and not given) or any(name not in varying for name in names):
        raise UsageError(f"Asked to fit over {names or 'nothing'}, but the optima vary in {varying or 'nothing'} only.")
    free = len(names) + len(curved)
    if len(y) < free + 2:
        raise UsageError(
            f"{len(y)} optima cannot fit {free} exponents and leave an error estimate{left_out}. Give at least "
            f"{free + 2}, or name fewer variables (over=...)."
        )
    centre = {name: float(logs[name].mean()) for name in [*names, *given]}
    away = {name: logs[name] - middle for name, middle in centre.items()}
    y = y - sum((e * away[name] for name, e in given.items()), np.zeros(len(y)))
    design = np.column_stack([np.ones(len(y)), *(away[name] for name in names), *(away[name] ** 2 for name in curved)])
    if np.linalg.matrix_rank(design, tol=1e-3 * math.sqrt(len(y))) < design.shape[1]:
        raise UsageError(f"{', '.join(names)} vary only together, so their exponents cannot be told apart. Name one.")
    line, unit = regress(design, y), np.eye(design.shape[1])
    exponents = {name: float(line.coefficients[i]) for i, name in enumerate(names, 1)}
    halves = {name: line.reach(unit[i], level=level) for i, name in enumerate(names, 1)}
    intervals = {name: (e - halves[name], e + halves[name]) for name, e in exponents.items()}
    spans = {name: (float(np.exp(x.min())), float(np.exp(x.max()))) for name, x in logs.items()}
    bends = {name: float(line.coefficients[i]) for i, name in enumerate(curved, 1 + len(names))}
    bent = {name: line.reach(unit[i], level=level) for i, name in enumerate(curved, 1 + len(names))}
    return LrFit(
        *(float(line.coefficients[0]), exponents, intervals, centre, line.residual),
        *(len(y), edges, spans, level, line, given, bends),
        {name: (b - bent[name], b + bent[name]) for name, b in bends.items()},
    )


def effective_rates(lrs: Sequence[float], weight_decays: Sequence[float]) -> list[float]:
    """sqrt(2 lr wd): the angle by which AdamW turns a weight per step once its norm has settled (2305.17212).

    Decoupled decay, both positive. Raises UsageError otherwise: without decay a norm does not settle.
    """
    if len(lrs) != len(weight_decays) or not all(x > 0 for x in (*lrs, *weight_decays)):
        raise UsageError("effective_rates needs as many weight decays as rates, all of them positive.")
    return [math.sqrt(2 * lr * wd) for lr, wd in zip(lrs, weight_decays, strict=True)]


def _given(fixed: Mapping[str, float], logs: Mapping[str, Array]) -> dict[str, float]:
    unknown = sorted(set(fixed) - set(logs))
    if unknown or not all(math.isfinite(e) for e in fixed.values()):
        raise UsageError(f"fixed={dict(fixed)}: give finite exponents of {', '.join(logs) or 'no variable here'}.")
    return dict(fixed)


def _logs(name: str, values: Sequence[float]) -> Array:
    x = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(x) & (x > 0)):
        raise UsageError(f"{name} must be positive and finite everywhere, but got {x[~(np.isfinite(x) & (x > 0))][0]}.")
    return np.log(x)
