"""Fitting a loss law to runs: Huber loss on ln L from many starts, bootstrap draws, extrapolation with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.training.seeding import numpy_generator
from hptransfer.prediction.laws.scaling import FREE, Form, LossLaw, log_loss
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.scaling.backtest import Backtest, Curve, backtested
from hptransfer.prediction.scaling.problem import APART, Problem, checked_runs, off_line, resampled, run_labels

Array = np.ndarray


WIDEN = 2.0
"""Factor on extrapolated intervals where the runs are too few for a backtest. It is no calibration: on one public
source twice the bare interval held 83 to 100% of runs, on another 0 to 9%."""


@dataclass(frozen=True)
class LossLawFit:
    """A fitted loss law.

    objective: sum of Huber losses of ln(predicted/observed). delta: its width. rows: runs fitted. residuals: their
    ln(observed/predicted). draws: laws refitted to resampled rows, the spread of the parameters. spans: smallest and
    largest N and D seen; most_compute: the largest N D. backtest: how the form's error grows with extrapolation on
    these very runs; None where they are too few to tell, or no draws were asked for.
    """

    law: LossLaw
    objective: float
    delta: float
    rows: int
    residuals: tuple[float, ...]
    draws: tuple[LossLaw, ...]
    spans: tuple[tuple[float, float], tuple[float, float]]
    most_compute: float
    backtest: Backtest | None = None

    def interval(self, name: str, *, level: float = 0.9) -> tuple[float, float]:
        """The bootstrap interval of a parameter. Raises UsageError where the fit was made without draws."""
        return self._quantiles(np.array([getattr(law, name) for law in self.draws]), level)

    def predict(self, params: float, tokens: float, *, level: float = 0.9, widen: float | None = None) -> Prediction:
        """The loss of a new run, with an interval from the parameters' spread and the runs' own scatter together.

        Beyond the fitted runs' N D the error of the form itself comes in: as the backtest measured it on these runs, or
        twice the bare interval where there is none. widen: that factor, given; 1 for the bare interval.
        """
        value = float(self.law.loss(params, tokens))
        notes = self._reach(params, tokens)
        if not self.draws:
            return self._prediction("final loss", value, None, None, "nats", notes)
        draws = np.array([float(law.loss(params, tokens)) for law in self.draws])
        low, high = self._quantiles(draws * np.exp(self._scatter(len(draws))), level)
        down, up, note = self._extrapolated(
            params * tokens, value / min(low, value), max(high, value) / value, widen, level
        )
        notes = (*notes, note) if note else notes
        return self._prediction("final loss", value, value / down, value * up, "nats", notes)

    def _extrapolated(
        self, compute: float, down: float, up: float, widen: float | None, level: float
    ) -> tuple[float, float, str]:
        """The interval's factors down and up at a compute N D, and what was done to them."""
        ratio = compute / self.most_compute
        if ratio <= 1 or widen == 1:
            return down, up, ""
        if self.backtest and widen is None:
            form = self.backtest.reach(ratio, level=level)
            note = f"form's error by backtest: {math.expm1(form):.2%} at {ratio:.3g}x the compute ({self.backtest})"
            return math.exp(math.hypot(math.log(down), form)), math.exp(math.hypot(math.log(up), form)), note
        factor = widen or WIDEN
        note = f"interval widened {factor:g}x: bare bootstrap intervals were too narrow in extrapolation"
        return down**factor, up**factor, note

    def optimal(
        self, flop: float, *, flop_per_param_token: float = 6.0, level: float = 0.9
    ) -> tuple[Prediction, Prediction, Prediction]:
        """The compute-optimal N, D and loss at a budget, each with its bootstrap interval."""
        best = self.law.optimal(flop, flop_per_param_token=flop_per_param_token)
        draws = np.array([law.optimal(flop, flop_per_param_token=flop_per_param_token) for law in self.draws])
        notes = (*self._reach(best[0], best[1]), f"compute = {flop_per_param_token:g} N D")
        names = (("parameters", "parameters"), ("tokens", "tokens"), ("final loss", "nats"))
        rows: list[Prediction] = []
        for i, (name, unit) in enumerate(names):
            low, high = self._quantiles(draws[:, i], level) if len(draws) else (None, None)
            rows.append(self._prediction(f"compute-optimal {name}", best[i], low, high, unit, notes))
        loss = self.predict(best[0], best[1], level=level)
        return rows[0], rows[1], loss.replace(name=rows[2].name, assumptions=(*loss.assumptions, notes[-1]))

    def _scatter(self, count: int) -> Array:
        return numpy_generator(0).choice(np.array(self.residuals), size=count)

    def _quantiles(self, draws: Array, level: float) -> tuple[float, float]:
        if not draws.size:
            raise UsageError("This fit has no bootstrap draws; fit with resamples > 0 to get intervals.")
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _reach(self, params: float, tokens: float) -> tuple[str, ...]:
        """Says by what factor a target leaves the fitted range."""
        notes: list[str] = []
        for name, x, (low, high) in zip(("N", "D"), (params, tokens), self.spans, strict=True):
            if not low <= x <= high:
                factor = x / high if x > high else low / x
                notes.append(
                    f"{name}={x:.3g} is {factor:.3g}x outside the fitted {low:.3g} to {high:.3g}: extrapolated"
                )
        return tuple(notes)

    def _prediction(
        self, name: str, value: float, low: float | None, high: float | None, unit: str, notes: tuple[str, ...]
    ) -> Prediction:
        low, high = (None if low is None else min(low, value)), (None if high is None else max(high, value))
        source = f"fit to {self.rows} runs, Huber on ln L (delta {self.delta:g})"
        same = "same data, tokenizer, recipe and way of counting N as the fitted runs"
        law = f"{self.law.form} loss law"
        return Prediction(name, value, low, high, unit, law, source, (same, *notes), Kind("fitted", "fitted"))


def fit_loss_law(
    params: Array,
    tokens: Array,
    losses: Array,
    *,
    form: Form = "chinchilla",
    delta: float = 1e-3,
    starts: int = 40,
    resamples: int = 0,
    groups: Sequence[object] | None = None,
    tie: bool = False,
    undertuned: float = 1.0,
    seed: int = 0,
) -> LossLawFit:
    """The law of this form that minimises the summed Huber loss of ln(predicted/observed) (arXiv:2203.15556 sec. 3.3).

    params (n,), tokens (n,), losses (n,): one run each, positive. delta: where the loss turns from squared to
    absolute. starts: random exponents, with the coefficients solved for by non-negative least squares, refined by
    L-BFGS with exact gradients. resamples: bootstrap refits (rows with replacement) for the intervals, and a backtest.
    groups (n,): rows with equal labels (checkpoints of one run, seeds of one model) are resampled together. tie: one
    exponent for N and D. undertuned: weight in (0, 1] of runs above the law: below 1 where a poor rate or batch may
    have raised some losses, which nothing lowers.
    Raises UsageError where arrays disagree or hold bad values, there are fewer runs than parameters, N or D is
    constant, or the two vary only together: use `fit_loss_line` then.
    """
    n, d, y = _inputs(params, tokens, losses, form, tie)
    labels = run_labels(groups, len(y))
    if not 0 < undertuned <= 1:
        raise UsageError(f"undertuned={undertuned!r} must lie in (0, 1]: the weight of runs above the law.")
    rng = numpy_generator(seed)
    problem = Problem(n, d, y, form, delta, tie=tie, undertuned=undertuned)
    best = _solve(problem, rng, starts)
    law = problem.law(best)
    draws: list[LossLaw] = []
    for _ in range(resamples):
        pick = resampled(labels, rng)
        if off_line(n[pick], d[pick]) >= APART:
            again = Problem(n[pick], d[pick], y[pick], form, delta, problem.centre, tie=tie, undertuned=undertuned)
            draws.append(again.law(again.refine(best)[0]))

    def refit(rows: Array) -> Curve:
        part = Problem(n[rows], d[rows], y[rows], form, delta, tie=tie, undertuned=undertuned)
        return partial(log_loss, part.law(_solve(part, numpy_generator(seed), 6)))

    spans = tuple((float(np.exp(x.min())), float(np.exp(x.max()))) for x in (n, d))
    return LossLawFit(
        law=law,
        objective=huber_objective(law, n, d, y, delta),
        delta=delta,
        rows=len(y),
        residuals=tuple((y - log_loss(law, n, d)).tolist()),
        draws=tuple(draws),
        spans=(spans[0], spans[1]),
        most_compute=float(np.exp((n + d).max())),
        backtest=backtested(n, d, y, refit, parameters=len(best)) if resamples else None,
    )


def _solve(problem: Problem, rng: np.random.Generator, starts: int) -> Array:
    """The best of the refined three of all roughly refined starts."""
    rough = sorted((problem.refine(problem.start(rng), rough=True) for _ in range(starts)), key=lambda found: found[1])
    return min((problem.refine(q) for q, _ in rough[:3]), key=lambda refined: refined[1])[0]


def huber_objective(
    law: LossLaw, log_params: Array, log_tokens: Array, log_losses: Array, delta: float = 1e-3
) -> float:
    """sum_i Huber_delta(ln L(N_i, D_i) - ln L_i)."""
    r = np.abs(log_loss(law, log_params, log_tokens) - log_losses)
    return float(np.sum(np.where(r <= delta, r**2 / 2, delta * (r - delta / 2))))


def _inputs(params: Array, tokens: Array, losses: Array, form: str, tie: bool) -> tuple[Array, Array, Array]:
    if form not in FREE:
        raise UsageError(f"Unknown loss law {form!r}: choose from {', '.join(FREE)}.")
    n, d, y = checked_runs(params, tokens, losses)
    free = len(FREE[form]) - tie
    if len(n) <= free:
        raise UsageError(f"The {form} law has {free} parameters; {len(n)} runs cannot fit it. Give more runs.")
    for name, x in (("N", n), ("D", d)):
        if np.ptp(x) == 0:
            raise UsageError(f"All runs have the same {name}, so its exponent cannot be seen. Vary {name}.")
    if (apart := off_line(n, d)) < APART:
        raise UsageError(
            f"N and D vary only together (D follows N to within {math.expm1(apart):.1%}; D/N is about "
            f"{np.exp(np.median(d - n)):.3g}), so their terms cannot be told apart, nor the best split of a budget. "
            "Add runs at another number of tokens per parameter, or fit the loss along this line alone with "
            "fit_loss_line."
        )
    return n, d, y
