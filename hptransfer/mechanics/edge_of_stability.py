"""The edge of stability: does curvature rise until lr x sharpness meets the optimizer's limit, and stay there?

Cohen et al. 2103.00065 (full-batch GD: sharpness rises, then hovers at 2/lr) and 2207.14484 (Adam: lambda_max(P^-1 H)
hovers at 38/lr for b = .9). The probe takes the training step and the sharpness measurement as functions, so it runs
with any model, optimizer and curvature estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hptransfer.core.errors import UsageError

Array = NDArray[np.float64]
Place = Literal["below", "at the edge", "above"]


@dataclass(frozen=True)
class EdgeTrace:
    """steps (m,), losses (m,), sharpness (m,) as measured; limit: the stable value of lr x sharpness (2, 3.8,
    38...); lr."""

    steps: Array
    losses: Array
    sharpness: Array
    lr: float
    limit: float

    @property
    def ratio(self) -> Array:
        """lr x sharpness / limit, (m,): 1 is the edge."""
        return self.lr * self.sharpness / self.limit

    @property
    def sharpening(self) -> float:
        """Largest sharpness over the first measured one."""
        return float(self.sharpness.max() / self.sharpness[0])

    @property
    def arrival(self) -> int | None:
        """The first measured step with ratio >= 1; None where the edge was not reached."""
        reached = np.flatnonzero(self.ratio >= 1)
        return int(self.steps[reached[0]]) if len(reached) else None

    def plateau(self, fraction: float = 0.3) -> tuple[float, float]:
        """Mean ratio over the last `fraction` of measurements, and its standard error from batch means (sqrt m
        batches)."""
        tail = self.ratio[-max(2, round(fraction * len(self.ratio))) :]
        size = max(1, math.isqrt(len(tail)))
        means = np.array([tail[k : k + size].mean() for k in range(0, len(tail) - size + 1, size)])
        return float(tail.mean()), float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.inf

    def place(self, *, fraction: float = 0.3, tolerance: float = 0.15) -> Place:
        """Where training ended up: within `tolerance` of the edge, below, or above it (not settled, or about to
        diverge)."""
        ratio, _ = self.plateau(fraction)
        if abs(ratio - 1) <= tolerance:
            return "at the edge"
        return "below" if ratio < 1 else "above"


def probe_edge(
    step: Callable[[], float],
    sharpness: Callable[[], float],
    *,
    lr: float,
    limit: float,
    steps: int,
    every: int = 1,
) -> EdgeTrace:
    """Train for `steps`, measuring sharpness before every `every`-th step.

    step: makes one optimizer step and returns the loss before it; sharpness: lambda_max of the (preconditioned)
    Hessian now. Stops early where the loss is no longer finite. Raises UsageError for counts below 1, or where
    nothing could be measured.
    """
    if steps < 1 or every < 1 or lr <= 0 or limit <= 0:
        raise UsageError(f"steps={steps}, every={every}, lr={lr}, limit={limit}: all must be positive.")
    rows: list[tuple[int, float, float]] = []
    for t in range(steps):
        bend = sharpness() if t % every == 0 else None
        loss = step()
        if not math.isfinite(loss):
            break
        if bend is not None:
            rows.append((t, loss, bend))
    if not rows:
        raise UsageError("The loss was not finite at the first step, so there is nothing to measure.")
    at, losses, bends = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    return EdgeTrace(at, losses, bends, lr, limit)
