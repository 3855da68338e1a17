"""The problem behind a fit of a loss law: runs checked, Huber loss on ln L with its gradient, starts, resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize, nnls

from hptransfer.core.errors import UsageError
from hptransfer.prediction.laws.scaling import Form, LossLaw

Array = np.ndarray


class Problem:
    """The fit in coordinates (ln A', ln B', a, b[, ln E][, ln g]), A' and B' at the centre: the mean ln N and ln D, and
    the median ln L, so that neither the unit of N and D nor that of the loss changes anything. tie: b = a, and the
    coordinate b is left out. undertuned: weight of runs above the law beside those below it.
    """

    def __init__(
        self,
        n: Array,
        d: Array,
        y: Array,
        form: Form,
        delta: float,
        centre: tuple[float, float, float] | None = None,
        *,
        tie: bool = False,
        undertuned: float = 1.0,
    ):
        self.centre = centre or (float(n.mean()), float(d.mean()), float(np.median(y)))
        self.n, self.d, self.y = n - self.centre[0], d - self.centre[1], y - self.centre[2]
        self.form: Form = form
        self.delta, self.tie, self.undertuned = delta, tie, undertuned

    def full(self, q: Array) -> Array:
        """All coordinates, b = a put in where they are tied."""
        return np.insert(q, 3, q[2]) if self.tie else q

    def law(self, q: Array) -> LossLaw:
        q, scale = self.full(q), self.centre[2]
        a, b = q[2], q[3]
        A, B = math.exp(q[0] + a * self.centre[0] + scale), math.exp(q[1] + b * self.centre[1] + scale)
        E = 0.0 if self.form == "kaplan" else math.exp(q[4] + scale)
        g = {"chinchilla": 1.0, "kaplan": float(b)}.get(self.form) or math.exp(q[5])
        return LossLaw(self.form, E, A, float(a), B, float(b), g)

    def start(self, rng: np.random.Generator) -> Array:
        a, b = np.exp(rng.uniform(math.log(0.05), math.log(1.0), size=2))
        b = a if self.tie else b
        design = np.column_stack([np.exp(-a * self.n), np.exp(-b * self.d), np.ones_like(self.y)])
        A, B, E = np.maximum(nnls(design, np.exp(self.y))[0], 1e-3)
        q = [math.log(A), math.log(B), a, b]
        if self.form != "kaplan":
            q.append(math.log(E))
        if self.form == "generalised":
            q.append(rng.uniform(math.log(0.3), math.log(2.0)))
        return np.delete(q, 3) if self.tie else np.array(q)

    def refine(self, q: Array, *, rough: bool = False) -> tuple[Array, float]:
        bounds = [(-40, 40), (-40, 40), (1e-3, 5), (1e-3, 5), (-12, 10), (math.log(0.02), math.log(20))]
        bounds = bounds[: len(self.full(q))]
        if self.tie:
            del bounds[3]
        solution = minimize(
            self.value,
            q,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 100} if rough else {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-9},
        )
        return solution.x, float(solution.fun)

    def value(self, q: Array) -> tuple[float, Array]:
        """The objective over delta^2 (so that it is of order 1) and its gradient."""
        q = self.full(q)
        a, b = q[2], q[3]
        g = b if self.form == "kaplan" else math.exp(q[5]) if self.form == "generalised" else 1.0
        u, v = (q[0] - a * self.n) / g, (q[1] - b * self.d) / g
        m = np.logaddexp(u, v)
        p = np.exp(u - m)  # share of the N term
        predicted = m * g if self.form == "kaplan" else np.logaddexp(q[4], g * m)
        s = np.exp(g * m - predicted)  # share of the reducible loss; 1 for kaplan
        entropy = m - p * u - (1 - p) * v  # d(g m)/dg
        columns = [s * p, s * (1 - p), -s * p * self.n, -s * (1 - p) * self.d]
        if self.form == "kaplan":
            columns[3] = columns[3] + entropy
        else:
            columns.append(1 - s)
        if self.form == "generalised":
            columns.append(s * g * entropy)
        r = predicted - self.y
        weight = np.where(r < 0, self.undertuned, 1.0)  # r < 0: the run lies above the law
        clipped = weight * np.clip(r, -self.delta, self.delta)  # Huber'
        size = np.abs(r)
        loss = float(weight @ np.where(size <= self.delta, r**2 / 2, self.delta * (size - self.delta / 2)))
        gradient = np.array([c @ clipped for c in columns]) / self.delta**2
        if self.tie:
            gradient[2] += gradient[3]
            gradient = np.delete(gradient, 3)
        return loss / self.delta**2, gradient


APART = 0.1
"""Smallest rms distance of (ln N, ln D) from a straight line at which a law of both is fitted: 10% in either."""


def off_line(n: Array, d: Array) -> float:
    """Root mean square distance of the points (ln N, ln D) from their own best straight line."""
    points = np.column_stack([n, d])
    return float(np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[-1] / math.sqrt(len(n)))


def checked_runs(params: Array, tokens: Array, losses: Array) -> tuple[Array, Array, Array]:
    """ln N, ln D, ln L. Raises UsageError where lengths disagree or a value is not positive and finite."""
    arrays = [np.asarray(x, dtype=np.float64) for x in (params, tokens, losses)]
    if len({x.shape for x in arrays}) != 1 or arrays[0].ndim != 1:
        raise UsageError(f"N, D and loss must be equally long arrays, but have shapes {[x.shape for x in arrays]}.")
    if not all(np.all(np.isfinite(x) & (x > 0)) for x in arrays):
        raise UsageError("N, D and loss must all be positive and finite. Drop runs that diverged.")
    n, d, y = (np.log(x) for x in arrays)
    return n, d, y


def run_labels(groups: Sequence[object] | None, rows: int) -> Array:
    """A whole number per row, equal in a group; without groups every row is one of its own."""
    if groups is None:
        return np.arange(rows)
    if len(groups) != rows:
        raise UsageError(f"groups has {len(groups)} labels for {rows} runs: give one per run.")
    known = {label: i for i, label in enumerate(dict.fromkeys(groups))}
    if len(known) < 3:
        raise UsageError(f"groups names {len(known)} group(s): resampling them needs at least 3.")
    return np.array([known[label] for label in groups])


def resampled(labels: Array, rng: np.random.Generator) -> Array:
    """Rows of as many groups as there are, drawn with replacement."""
    count = int(labels.max()) + 1
    if count == len(labels):
        return rng.integers(count, size=count)
    return np.concatenate([np.flatnonzero(labels == group) for group in rng.integers(count, size=count)])
