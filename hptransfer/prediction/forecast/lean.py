"""The loss is asymmetric: a little above the best rate runs diverge. How low to aim when the rate is uncertain.

The measured losses over log2(lr) give the loss of missing by any number of octaves; a run that diverged counts as its
loss at initialisation (nothing was learnt). The advice minimises the expected loss over a normal error of the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from hptransfer.core.errors import UsageError

Array = np.ndarray


@dataclass(frozen=True)
class Lean:
    """What the asymmetry asks for.

    octaves: how far below the optimum to aim (0: the loss is symmetric enough); expected_loss at the aim, and
    unleaned_loss when aiming at the optimum itself. diverges: probability that the aimed rate diverges; cliff_low,
    cliff_high: log2 of the last rate that trained and the first that diverged, inf where none did.
    """

    octaves: float
    expected_loss: float
    unleaned_loss: float
    diverges: float
    cliff_low: float
    cliff_high: float


def lean(log2_lrs: Sequence[float], losses: Sequence[float], *, optimum: float, sd: float, initial_loss: float) -> Lean:
    """How low to aim, given one curve of losses.

    log2_lrs: ascending; losses: of the same length, inf where the run diverged; optimum: log2 of the predicted rate;
    sd: standard deviation of its error, octaves; initial_loss: loss before training.
    Raises UsageError where fewer than 3 runs trained, or sd is not positive.
    """
    x, y = np.asarray(log2_lrs, dtype=float), np.asarray(losses, dtype=float)
    if np.isfinite(y).sum() < 3 or not sd > 0:
        raise UsageError(f"lean needs at least 3 finite losses and sd > 0, but got {y.tolist()} and sd={sd!r}.")
    low, high = _cliff(x, y)
    filled = np.where(np.isfinite(y), y, initial_loss)
    offsets, weights = norm.ppf((np.arange(201) + 0.5) / 201) * sd, np.full(201, 1 / 201)

    def expected(shift: float) -> float:
        return float(weights @ np.interp(optimum - shift + offsets, x, filled))

    shifts = np.linspace(0.0, 3 * sd, 61)
    shift = float(shifts[int(np.argmin([expected(s) for s in shifts]))])
    reach = optimum - shift + offsets
    diverges = float(weights @ _past_cliff(reach, low, high)) if np.isfinite(high) else 0.0
    return Lean(shift, expected(shift), expected(0.0), diverges, low, high)


def _cliff(x: Array, y: Array) -> tuple[float, float]:
    """(last rate that trained, first above it that diverged); both inf where none diverged above the best."""
    best = int(np.argmin(np.where(np.isfinite(y), y, np.inf)))
    beyond = [k for k in range(best, len(x)) if not np.isfinite(y[k])]
    return (float(x[beyond[0] - 1]), float(x[beyond[0]])) if beyond else (float("inf"), float("inf"))


def _past_cliff(at: Array, low: float, high: float) -> Array:
    """Probability that a rate lies past a cliff which is equally likely anywhere in [low, high] of log2 lr."""
    return np.clip((at - low) / (high - low), 0.0, 1.0)
