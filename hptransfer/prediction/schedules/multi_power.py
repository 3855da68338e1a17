"""The multi-power law: the loss curve of any learning-rate schedule from a fit to a few curves.

    L(t) = L0 + A S1(t)^-alpha - B sum_{k<=t} (lr_{k-1} - lr_k) G(lr_k^-gamma S_k(t))
    G(x) = 1 - (1 + C x)^-beta,   S1(t) = sum of lr over all steps up to t, warm-up included,
    S_k(t) = sum_{k<=tau<=t} lr_tau
(Luo et al. 2025, arXiv:2503.12811, eqs. 1-3; read in the authors' public repository). The first two terms are a power
law in summed rate; every drop of the rate then earns a further decrease that saturates. A rise of the rate enters with
the opposite sign: the rises of the warm-up are part of the sum (only so do the published parameters give the published
errors; they shift the curve by about B x peak rate), later rises were not tested by the law's authors.

The sum costs O(steps asked for x drops). Constant stretches have no drops; where there are more than `blocks` drops
(a cosine has one per step), neighbours are merged into blocks at their mean rate and place. Checked against the plain
double loop: with 512 blocks the 25M curves move by < 1e-4 nats.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.prediction.table import read_columns

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class LossCurve:
    """A training run's loss curve with its schedule.

    lrs: (T,) the learning rate of every step, warm-up included; only the first may be 0. steps: (n,) increasing step
    numbers in 0..T-1 at which the loss was seen (best after warm-up); losses: (n,) in nats, positive.
    Raises UsageError where the shapes disagree, a step lies outside, or a value is not positive and finite.
    """

    name: str
    lrs: Array
    steps: Array
    losses: Array

    def __post_init__(self) -> None:
        _check_lrs(self.lrs)
        steps, losses = np.asarray(self.steps), np.asarray(self.losses)
        if steps.shape != losses.shape or steps.ndim != 1 or not steps.size:
            raise UsageError(f"Curve {self.name!r}: steps {steps.shape} and losses {losses.shape} must be equal, (n,).")
        if not np.all(np.isfinite(losses) & (losses > 0)):
            raise UsageError(f"Curve {self.name!r}: losses must be positive and finite. Cut it before it diverged.")
        if np.any(np.diff(steps) <= 0) or steps[0] < 0 or steps[-1] >= len(self.lrs):
            raise UsageError(
                f"Curve {self.name!r}: steps must increase within 0 to {len(self.lrs) - 1}, but run from {steps[0]} to "
                f"{steps[-1]}."
            )


def read_curve(path: str | Path, *, lrs: Array | None = None, warmup: int = 0) -> LossCurve:
    """A curve from a CSV file with columns step, lr, loss, one row per logged step.

    lrs: (T,) the whole schedule, where it is known. Without it the rates are read off the log: a straight warm-up from
    0 over `warmup` steps, then straight lines between the logged rates. Raises UsageError for an unreadable file,
    missing columns or bad values.
    """
    columns = read_columns(path, {"step": "step", "lr": "lr", "loss": "loss"})
    steps, rates, losses = columns["step"].astype(int), columns["lr"], columns["loss"]
    if lrs is None:
        every = np.arange(int(steps[-1]) + 1)
        ramp = np.minimum(1.0, (every + 1) / warmup) if warmup else 1.0
        lrs = np.asarray(np.interp(every, steps, rates) * ramp)
    return LossCurve(Path(path).stem, lrs, steps, losses)


@dataclass(frozen=True)
class MultiPowerLaw:
    """The seven parameters, in the units of the learning rates they were fitted with; all positive."""

    L0: float
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    def values(self) -> Array:
        """(7,) in the order of the fields."""
        return np.array(dataclasses.astuple(self))

    def curve(self, lrs: Array, steps: Array, *, blocks: int = 2048) -> Array:
        """The predicted losses (n,) at `steps` (n,) of a run with these rates (T,).

        Raises UsageError where the rates are not positive and finite.
        """
        _check_lrs(lrs)
        return evaluate(self.values(), summarise(lrs, steps, blocks=blocks))

    def final_loss(self, lrs: Array) -> float:
        """The predicted loss after the last step, with every drop counted on its own: O(T)."""
        _check_lrs(lrs)
        return float(evaluate(self.values(), summarise(lrs, np.array([len(lrs) - 1]), blocks=len(lrs)))[0])


@dataclass(frozen=True, eq=False)
class CurveSums:
    """All of a schedule that the law needs: at n steps and m blocks of drops.

    total: (n,) S1. drop: (m,) summed lr_{k-1} - lr_k; rate: (m,) mean lr_k; since: (n, m) S_k(t), 0 before the drop.
    """

    total: Array
    drop: Array
    rate: Array
    since: Array


def summarise(lrs: Array, steps: Array, *, blocks: int = 512) -> CurveSums:
    """The sums of a schedule (T,) at `steps` (n,): drops and rises each merged into at most `blocks` blocks."""
    lrs = np.asarray(lrs, dtype=np.float64)
    summed = np.cumsum(lrs)
    drops = -np.diff(lrs)
    parts = [_merge(lrs, summed, drops, np.flatnonzero(sign * drops > 0), blocks) for sign in (1, -1)]
    drop, rate, before = (np.concatenate(column) for column in zip(*parts, strict=True))
    total = summed[np.asarray(steps)]
    return CurveSums(total, drop, rate, np.maximum(total[:, None] - before[None, :], 0.0))


def evaluate(p: Array, sums: CurveSums) -> Array:
    """The law at parameters p (7,): (n,)."""
    L0, A, alpha, B, C, beta, gamma = p
    response = 1 - (1 + C * sums.rate**-gamma * sums.since) ** -beta  # eq. 3
    return L0 + A * sums.total**-alpha - B * response @ sums.drop  # eqs. 1, 2


def jacobian(p: Array, sums: CurveSums) -> Array:
    """d law / d p: (n, 7). Checked against central differences."""
    _, A, alpha, B, C, beta, gamma = p
    x = sums.rate**-gamma * sums.since
    base = 1 + C * x
    kept = base**-beta
    slope = beta * kept / base  # dG/d(Cx)
    power = sums.total**-alpha
    return np.column_stack(
        [
            np.ones_like(power),
            power,
            -A * power * np.log(sums.total),
            -(1 - kept) @ sums.drop,
            -B * (slope * x) @ sums.drop,
            -B * (kept * np.log(base)) @ sums.drop,
            B * (slope * C * x) @ (sums.drop * np.log(sums.rate)),
        ]
    )


def _merge(lrs: Array, summed: Array, drops: Array, index: Array, blocks: int) -> tuple[Array, Array, Array]:
    """Drop-weighted means over runs of neighbouring drops: summed drop, mean lr_k, mean of the sum before step k."""
    if not index.size:
        return np.empty(0), np.empty(0), np.empty(0)
    edges = np.unique(np.linspace(0, len(index), min(blocks, len(index)) + 1).astype(int))[:-1]
    weight, k = drops[index], index + 1
    drop = np.add.reduceat(weight, edges)
    rate = np.add.reduceat(weight * lrs[k], edges) / drop
    before = np.add.reduceat(weight * summed[k - 1], edges) / drop
    return drop, rate, before


def _check_lrs(lrs: Array) -> None:
    lrs = np.asarray(lrs)
    if lrs.ndim != 1 or lrs.size < 2:
        raise UsageError(f"Learning rates must be an array (T,) of at least two steps, but have shape {lrs.shape}.")
    if not (np.all(np.isfinite(lrs)) and lrs[0] >= 0 and np.all(lrs[1:] > 0)):
        raise UsageError(
            "The multi-power law needs positive, finite rates (0 has no lr^-gamma), but they run from "
            f"{lrs.min():.3g} to {lrs.max():.3g}. End the schedule just above 0."
        )
