"""lr* ~ B^b T^t (B batch, T tokens of the run): what data sets measured, and what a new one is expected to show.

b = d ln lr* / d ln B at fixed tokens, t = d ln lr* / d ln T at fixed batch. Data sets differ in both by far more than
any one of them is uncertain, so a factor's interval is a prediction interval for a *new* data set: Student's t over the
sources (their number less one degrees of freedom), with the covariance of b and t, and an optimum's own scatter.
`scripts/bench_factors.py` leaves each source out in turn, and holds the rule against others by regret on every table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.core.rules import Geometry
from hptransfer.core.statistics import t_quantile

SCATTER = 0.2
"""Standard deviation of ln lr* of one optimum around its own data set's law. Measured on tables of octave grids, see
benchmarks/factors.json; denser grids scatter less (.05 on the 124M runs)."""


@dataclass(frozen=True)
class Evidence:
    """One data set. batch, tokens: its exponents b and t, None where it did not vary them; geometry: of the steps."""

    data: str
    batch: float | None
    tokens: float | None
    geometry: Geometry
    source: str


EVIDENCE: tuple[Evidence, ...] = (
    Evidence("Step Law grid, 17 cells", 0.30, 0.01, "sign", "runs of 2503.04715, fitted here"),
    Evidence("124M Llama, SlimPajama", None, -0.24, "sign", "runs of 2501.18965, fitted here"),
    Evidence("130M ladder", None, -0.19, "sign", "fitted here"),
    Evidence("50M to 2.7B, RefinedWeb", None, -0.32, "sign", "2409.19913"),
    Evidence("hypersphere, MuonH", None, -0.32, "spectral", "2603.28743"),
    Evidence("mlp, digits", 0.48, -0.53, "sign", "benchmarks/grids/mlp-adam.csv"),
    Evidence("gpt, source code", 0.37, -0.09, "sign", "benchmarks/grids/gpt-adam.csv"),
    Evidence("Scion", 0.62, -0.56, "spectral", "Filatov et al. 2025, as quoted"),
)
"""One row a data set. Rows of our own grids are what `fit_sweep` gives there (tested); a grid whose exponents are known
to no better than .5 gives none."""


@dataclass(frozen=True)
class JointRule:
    """batch, tokens: mean exponents over data sets trained with steps like Adam's.

    spread: covariance of both between data sets, [[bb, bt], [bt, tt]]. sources: how many data sets gave b and t.
    scatter: of an optimum's ln lr* around its data set's law.
    """

    batch: float
    tokens: float
    spread: tuple[tuple[float, float], tuple[float, float]]
    sources: tuple[int, int]
    scatter: float = SCATTER

    def factor(self, batch: float, tokens: float) -> float:
        """lr*'/lr* for batch and tokens at target/base ratios, both > 0."""
        return math.exp(self.batch * math.log(batch) + self.tokens * math.log(tokens))

    def reach(self, batch: float, tokens: float, *, level: float = 0.9) -> float:
        """Half the interval of ln(lr*'/lr*) on a data set that is not among the sources; 0 where nothing moves."""
        move = np.log([batch, tokens])
        if not move.any():
            return 0.0
        counts = [count for count, log in zip(self.sources, move, strict=True) if log]
        fewest = min(counts)
        between = math.sqrt((1 + 1 / fewest) * float(move @ np.array(self.spread) @ move))
        return math.hypot(t_quantile(level, fewest - 1) * between, _noise(level, self.scatter))


def joint_rule(evidence: Sequence[Evidence] = EVIDENCE, *, scatter: float = SCATTER) -> JointRule:
    """Means over the sources with steps like Adam's; spread over all sources, about those means.

    The correlation of b and t is that of the sources that have both (0 with fewer than 3). Needs two sources of each
    exponent, one of them with steps like Adam's.
    """
    centre: list[float] = []
    spread: list[float] = []
    counts: list[int] = []
    for axis in ("batch", "tokens"):
        rows = [(float(value), row.geometry) for row in evidence if (value := getattr(row, axis)) is not None]
        middle = float(np.mean([value for value, geometry in rows if geometry == "sign"]))
        centre.append(middle)
        spread.append(math.sqrt(sum((value - middle) ** 2 for value, _ in rows) / (len(rows) - 1)))
        counts.append(len(rows))
    both = np.array([(r.batch, r.tokens) for r in evidence if r.batch is not None and r.tokens is not None])
    correlation = float(np.corrcoef(both.T)[0, 1]) if len(both) >= 3 else 0.0
    shared = correlation * spread[0] * spread[1]
    matrix = ((spread[0] ** 2, shared), (shared, spread[1] ** 2))
    return JointRule(centre[0], centre[1], matrix, (counts[0], counts[1]), scatter)


def reach_about(log_factor: float, batch: float, *, level: float = 0.9, scatter: float = SCATTER) -> float:
    """Half the interval of ln(lr*'/lr*) where a rule gives `log_factor` for batches at the ratio `batch`.

    The between-data-set error of that rule: the root mean square distance of the measured exponents from its own mean
    exponent between the two batches. 0 where the batch stays.
    """
    move = abs(math.log(batch))
    if not move:
        return 0.0
    measured = np.array([row.batch for row in EVIDENCE if row.batch is not None])
    off = float(np.sqrt(np.mean((measured - log_factor / math.log(batch)) ** 2) * (1 + 1 / len(measured))))
    return math.hypot(t_quantile(level, len(measured) - 1) * off * move, _noise(level, scatter))


def _noise(level: float, scatter: float) -> float:
    """Half the interval of what two optima's own scatter adds: known from many cells, so normal."""
    return t_quantile(level, math.inf) * scatter * math.sqrt(2)
