"""The loss along a line: runs whose tokens follow their parameters, as at a fixed number of tokens per parameter.

Such runs tell nothing of N and D apart, but do tell how the loss falls along their line:

    L = E + K (C/C_0)^-c,   C = N D, C_0 the geometric mean of the fitted runs'

(with D = k N, Chinchilla's law with equal exponents is exactly this, c being half of them; with unequal ones nearly.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from hptransfer.core.errors import UsageError
from hptransfer.core.training.seeding import numpy_generator
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.scaling.backtest import Backtest, Curve, backtested
from hptransfer.prediction.scaling.problem import checked_runs, resampled, run_labels

Array = np.ndarray
BESIDE = 0.2
"""Largest distance of a target's ln D from the line, beyond that of the fitted runs, at which it counts as on it."""


@dataclass(frozen=True)
class LossLine:
    """E, K, c: the fit, losses in the runs' unit, C_0 = exp(log_compute). draws: (E, K, c) of resampled runs.

    residuals: ln(observed/predicted). slope, offset: the line ln D = offset + slope ln N, off: the runs' largest
    distance from it. most_compute: the largest N D. backtest: as in LossLawFit.
    """

    E: float
    K: float
    c: float
    log_compute: float
    draws: tuple[tuple[float, float, float], ...]
    residuals: tuple[float, ...]
    slope: float
    offset: float
    off: float
    most_compute: float
    backtest: Backtest | None

    def loss(self, params: float, tokens: float) -> float:
        """L at a point of the line. Raises UsageError away from it, where these runs say nothing."""
        away = abs(math.log(tokens) - self.offset - self.slope * math.log(params))
        if away > self.off + BESIDE:
            on_line = math.exp(self.offset + self.slope * math.log(params))
            raise UsageError(
                f"N={params:.3g}, D={tokens:.3g} lies off the line of the fitted runs (D={on_line:.3g} there): "
                "the loss beside it was never seen. Give tokens on the line, or fit runs at another D/N as well."
            )
        return self._at((self.E, self.K, self.c), params * tokens)

    def predict(self, params: float, tokens: float, *, level: float = 0.9) -> Prediction:
        """The loss of a new run on the line: parameters' spread, the runs' scatter and the form's error by backtest.

        Raises UsageError off the line, or where the fit was made without draws.
        """
        value = self.loss(params, tokens)
        if not self.draws:
            raise UsageError("This fit has no bootstrap draws; fit with resamples > 0 to get intervals.")
        scatter = numpy_generator(0).choice(np.array(self.residuals), size=len(self.draws))
        drawn = np.array([self._at(draw, params * tokens) for draw in self.draws]) * np.exp(scatter)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        ratio = params * tokens / self.most_compute
        form = self.backtest.reach(ratio, level=level) if self.backtest and ratio > 1 else 0.0
        down, up = (math.hypot(math.log(max(1.0, end)), form) for end in (value / low, high / value))
        notes = (f"D = {math.exp(self.offset):.3g} N^{self.slope:.3g} as in the fitted runs, and the same recipe",)
        if ratio > 1:
            notes = (*notes, f"extrapolated {ratio:.3g}x in compute")
        law, source = f"L = {self.E:.4g} + K C^-{self.c:.3f} along the line", f"fit to {len(self.residuals)} runs"
        ends = value, value * math.exp(-down), value * math.exp(up)
        return Prediction("final loss", *ends, "nats", law, source, notes, Kind("fitted", "fitted"))

    def optimal(self, flop: float) -> None:
        """Not known: raises UsageError."""
        raise UsageError(
            f"The best split of {flop:.3g} operations cannot be told from runs on one line of N and D: no point "
            "beside it was seen. Add runs at another number of tokens per parameter and use fit_loss_law."
        )

    def _at(self, parameters: tuple[float, float, float], compute: float) -> float:
        E, K, c = parameters
        return E + K * math.exp(-c * (math.log(compute) - self.log_compute))


def fit_loss_line(
    params: Array,
    tokens: Array,
    losses: Array,
    *,
    delta: float = 1e-3,
    resamples: int = 200,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> LossLine:
    """The loss along the line of the runs: Huber loss (width delta) of ln L over E, K and c; else as `fit_loss_law`.

    params, tokens, losses (n,), n >= 5, positive. Raises UsageError with fewer runs, bad values, or one compute only.
    """
    n, d, y = checked_runs(params, tokens, losses)
    x = n + d
    if len(y) < 5 or np.ptp(x) < 0.1:
        raise UsageError(
            f"A loss line needs 5 runs at different compute, but got {len(y)} over a factor {math.exp(np.ptp(x)):.3g}."
        )
    centre = float(x.mean())
    labels, rng = run_labels(groups, len(y)), numpy_generator(seed)

    def fitted(rows: Array, start: Triple | None = None) -> Triple:
        return _solve(x[rows] - centre, y[rows], delta, start)

    def refit(rows: Array) -> Curve:
        E, K, c = fitted(rows)
        return lambda log_n, log_d: np.log(E + K * np.exp(-c * (log_n + log_d - centre)))

    everything = np.arange(len(y))
    E, K, c = fitted(everything)
    draws = [
        fitted(rows, (E, K, c)) for rows in (resampled(labels, rng) for _ in range(resamples)) if np.ptp(x[rows]) > 0.1
    ]
    slope, offset = np.polyfit(n, d, 1) if np.ptp(n) > 1e-9 else (0.0, float(d.mean()))
    return LossLine(
        *(E, K, c, centre, tuple(draws)),
        tuple((y - refit(everything)(n, d)).tolist()),
        *(float(slope), float(offset), float(np.abs(d - offset - slope * n).max())),
        most_compute=float(np.exp(x.max())),
        backtest=backtested(n, d, y, refit, parameters=3, apart=0.0) if resamples else None,
    )


Triple = tuple[float, float, float]


def _solve(x: Array, y: Array, delta: float, start: Triple | None = None) -> Triple:
    """(E, K, c) of the smallest Huber loss of ln(E + K e^(-c x)) - y, from a start or from several exponents."""

    def residual(q: Array) -> Array:
        return np.logaddexp(q[0], q[1] - q[2] * x) - y

    middle = float(np.median(y))
    shares = [(middle + math.log(1 - share), middle + math.log(share)) for share in (0.2, 0.5)]
    starts = [(*ends, c) for ends in shares for c in (0.05, 0.15, 0.4)]
    if start is not None:
        starts = [(math.log(start[0]), math.log(start[1]), start[2])]
    low, high = np.array([middle - 12, middle - 12, 1e-3]), np.array([middle + 3, middle + 3, 5.0])
    options: dict[str, Any] = {"bounds": (low, high), "loss": "huber", "f_scale": delta, "max_nfev": 200}
    fits = [least_squares(residual, np.clip(q, low + 1e-9, high - 1e-9), **options) for q in starts]
    q = min(fits, key=lambda fit: float(fit.cost)).x
    return math.exp(q[0]), math.exp(q[1]), float(q[2])
