"""Expected loss at a larger width, from tuned losses at a few smaller ones: ln L linear in ln N, with its t-interval.

A pure power law has no floor, so it is optimistic far away: the interval holds the noise of the fit, not that bias.
With a floor (prediction/scaling.py) a fit needs many more scales than a transfer check has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.statistics import regress
from hptransfer.prediction.provenance import Kind, Prediction


def loss_at_size(params: Sequence[float], losses: Sequence[float], target: float, *, level: float = 0.9) -> Prediction:
    """The loss of a model with `target` parameters.

    params, losses: of tuned runs at 3 or more sizes, positive. The interval is that of a new observation.
    Raises UsageError with fewer than 3 distinct sizes, or values that are not positive and finite.
    """
    x, y = np.asarray(params, dtype=float), np.asarray(losses, dtype=float)
    if len(set(params)) < 3 or not (np.isfinite([*x, *y]).all() and min(*x, *y) > 0):
        raise UsageError(f"A loss law needs 3 sizes with positive losses, but got sizes {params} and losses {losses}.")
    u, v = np.log(x), np.log(y)
    line = regress(np.column_stack([np.ones(len(u)), u - u.mean()]), v)
    at = [1.0, math.log(target) - u.mean()]
    slope, middle = float(line.coefficients[1]), float(line.coefficients @ at)
    half = line.reach(at, level=level, new=True)
    return Prediction(
        "loss",
        math.exp(middle),
        math.exp(middle - half),
        math.exp(middle + half),
        "1",
        f"L = A N^{slope:.3f} over {len(x)} sizes",
        "least squares on ln L against ln N; Kaplan et al. 2020, 2001.08361, for the form",
        ("same data, steps and batch", "no floor in reach", f"extrapolated {target / x.max():.3g}x in parameters"),
        Kind("fitted", "fitted"),
    )
