"""Fitting the multi-power law to loss curves, with held-out errors that say how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy.optimize import least_squares

from hptransfer.core.errors import UsageError
from hptransfer.core.training.seeding import numpy_generator
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.schedules.multi_power import (
    CurveSums,
    LossCurve,
    MultiPowerLaw,
    evaluate,
    jacobian,
    summarise,
)

Array = np.ndarray

PRIOR_CENTRE = {"alpha": 0.45, "C": 2.1, "beta": 0.6, "gamma": 0.65}
"""Where the published 100M and 400M fits put the exponents (arXiv:2503.12811: .453/.429, 2.132/2.025, .598/.594,
.655/.635). L0, A and B are free."""

PRIOR = 30.0
"""The weight of the prior, chosen on the 25M curves alone: over 28 of the 84 choices of three curves, by the median
error on the other six (10: .00430, 30: .00423, 100: .00445 nats; the mean prefers 100: .00483, .00467, .00451)."""

_NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
_SHAPE = [_NAMES.index(name) for name in PRIOR_CENTRE]
_CENTRE = np.log(list(PRIOR_CENTRE.values()))
_LOW = np.log(np.array([1e-3, 1e-6, 0.02, 1e-4, 1e-4, 0.02, 0.02]))
_HIGH = np.log(np.array([1e3, 1e4, 5.0, 1e8, 1e6, 5.0, 3.0]))


@dataclass(frozen=True)
class MultiPowerFit:
    """A fitted law.

    objective: mean Huber loss of ln L over the points. mae: mean |error| on the fitted curves, nats. curves: their
    names. rates: the smallest (after the first step) and largest learning rate seen; outside them it extrapolates.
    """

    law: MultiPowerLaw
    objective: float
    mae: float
    curves: tuple[str, ...]
    rates: tuple[float, float]

    def __str__(self) -> str:
        parameters = ", ".join(f"{name}={value:.4g}" for name, value in vars(self.law).items())
        return f"multi-power law on {', '.join(self.curves)}: {parameters}; MAE {self.mae:.4f} nats"


def fit_multi_power(
    curves: Sequence[LossCurve], *, starts: int = 6, delta: float = 1e-3, prior: float = PRIOR, seed: int = 0
) -> MultiPowerFit:
    """The law that minimises the Huber loss (delta) of ln(predicted/observed) over all points of all curves.

    prior: three curves do not pin C, beta and gamma down (the data is nearly blind along a valley of them), so the
    exponents are held weakly to PRIOR_CENTRE: an exponent off by a factor e^(1/prior) costs what one point off by
    delta costs. 0 turns it off. starts: each draws the exponents log-uniformly (the first takes the prior's), solves
    for L0, A and B (the law is linear in them), and refines all seven in log space.
    Raises UsageError where there are fewer than 7 points or no curve ever lowers its rate.
    """
    _check_curves(curves)
    sums = [summarise(c.lrs, c.steps) for c in curves]
    logs = np.log(np.concatenate([c.losses for c in curves]))
    rng = numpy_generator(seed)
    found = [_refine(_start(rng, sums, logs, first=i == 0), sums, logs, delta, prior) for i in range(starts)]
    q = min(found, key=lambda r: r[1])[0]
    law = MultiPowerLaw(*(float(v) for v in np.exp(q)))
    error = _stack(evaluate, law.values(), sums) - np.exp(logs)
    off = np.abs(np.log1p(error / np.exp(logs)))
    huber = np.where(off <= delta, off**2 / 2, delta * (off - delta / 2))
    low, high = min(np.min(c.lrs[1:]) for c in curves), max(np.max(c.lrs) for c in curves)
    names = tuple(c.name for c in curves)
    return MultiPowerFit(law, float(huber.mean()), float(np.abs(error).mean()), names, (float(low), float(high)))


@dataclass(frozen=True)
class HeldOut:
    """What the law gets wrong on a curve it was not fitted to: mean |error|, and final predicted minus observed."""

    curve: str
    mae: float
    final_error: float


def held_out_errors(fit: MultiPowerFit, curves: Sequence[LossCurve]) -> tuple[HeldOut, ...]:
    """The errors of a fit on other curves, in nats."""
    rows: list[HeldOut] = []
    for curve in curves:
        error = fit.law.curve(curve.lrs, curve.steps) - curve.losses
        rows.append(HeldOut(curve.name, float(np.abs(error).mean()), float(error[-1])))
    return tuple(rows)


def leave_one_out(curves: Sequence[LossCurve], *, starts: int = 4, prior: float = PRIOR) -> tuple[HeldOut, ...]:
    """Each curve's errors under a fit to all the others. Raises UsageError with fewer than 3 curves."""
    if len(curves) < 3:
        raise UsageError(f"Leaving one of {len(curves)} curves out leaves too few to fit. Give at least 3.")
    rows: list[HeldOut] = []
    for i, curve in enumerate(curves):
        rest = [c for j, c in enumerate(curves) if j != i]
        rows += held_out_errors(fit_multi_power(rest, starts=starts, prior=prior), [curve])
    return tuple(rows)


def predict_final_loss(fit: MultiPowerFit, lrs: Array, held_out: Sequence[HeldOut] = ()) -> Prediction:
    """The final loss of a run with these rates (T,).

    The interval is 1.645 root-mean-square final errors of `held_out` (none given: no interval, because the error on
    the fitted curves themselves is several times too small).
    """
    value = fit.law.final_loss(lrs)
    reach = 1.645 * math.sqrt(float(np.mean([h.final_error**2 for h in held_out]))) if held_out else None
    low, high = float(np.min(lrs[1:])), float(np.max(lrs))
    outside = (
        []
        if fit.rates[0] * 0.999 <= low and high <= fit.rates[1] * 1.001
        else [f"rates {low:.3g} to {high:.3g} leave the fitted {fit.rates[0]:.3g} to {fit.rates[1]:.3g}: extrapolated"]
    )
    return Prediction(
        name="final loss",
        value=value,
        low=None if reach is None else value - reach,
        high=None if reach is None else value + reach,
        unit="nats",
        law="multi-power law",
        source=f"arXiv:2503.12811; fitted to {', '.join(fit.curves)}",
        assumptions=("same model, data, batch and optimizer as the fitted curves", *outside),
        kind=Kind("fitted", "fitted"),
    )


def _refine(start: Array, sums: list[CurveSums], logs: Array, delta: float, prior: float) -> tuple[Array, float]:
    pull = np.zeros((len(_SHAPE), len(start)))
    pull[np.arange(len(_SHAPE)), _SHAPE] = prior * delta

    def residual(q: Array) -> Array:
        misfit = np.log(np.maximum(_stack(evaluate, np.exp(q), sums), 1e-12)) - logs
        return np.concatenate([misfit, prior * delta * (q[_SHAPE] - _CENTRE)])

    def slope(q: Array) -> Array:
        p = np.exp(q)
        return np.vstack([_stack(jacobian, p, sums) * p / np.maximum(_stack(evaluate, p, sums), 1e-12)[:, None], pull])

    found: Any = least_squares(
        residual,
        start,
        jac=cast(Any, slope),
        bounds=(_LOW, _HIGH),
        loss="huber",
        f_scale=delta,
        x_scale="jac",
        max_nfev=300,
    )
    return found.x, float(found.cost)


def _start(rng: np.random.Generator, sums: list[CurveSums], logs: Array, *, first: bool) -> Array:
    """Exponents from the prior or at random, with the least-squares L0, A, B there, clipped into the bounds."""
    drawn = np.exp(rng.uniform(np.log([0.2, 0.1, 0.2, 0.2]), np.log([1.2, 20.0, 1.2, 1.2])))
    alpha, C, beta, gamma = np.exp(_CENTRE) if first else drawn
    losses = np.exp(logs)
    design = _stack(jacobian, np.array([1, 1, alpha, 1, C, beta, gamma]), sums)[:, [0, 1, 3]]  # columns of L0, A, B
    L0, A, B = np.linalg.lstsq(design, losses, rcond=None)[0]
    p = np.array([np.clip(L0, 0.3 * losses.min(), losses.min()), max(A, 1e-3), alpha, max(B, 1e-2), C, beta, gamma])
    return np.clip(np.log(p), _LOW + 1e-6, _HIGH - 1e-6)


def _stack(function: Callable[[Array, CurveSums], Array], p: Array, sums: list[CurveSums]) -> Array:
    return np.concatenate([function(p, s) for s in sums])


def _check_curves(curves: Sequence[LossCurve]) -> None:
    points = sum(len(c.losses) for c in curves)
    if points < 7:
        raise UsageError(f"The multi-power law has 7 parameters, but the {len(curves)} curves hold {points} points.")
    if not any(np.any(np.diff(c.lrs) < 0) for c in curves):
        raise UsageError(
            f"None of the {len(curves)} curves ever lowers its rate, so B, C, beta and gamma cannot be seen. Add a run "
            "with a decay or with a step down."
        )
