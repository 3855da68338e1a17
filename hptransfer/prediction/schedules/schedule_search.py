"""The schedule with the smallest final loss under a fitted multi-power law, among those that never raise the rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from hptransfer.core.errors import UsageError
from hptransfer.prediction.schedules.multi_power import MultiPowerLaw
from hptransfer.prediction.schedules.schedule import Schedule, cosine, from_array, linear, wsd

Array = np.ndarray


@dataclass(frozen=True)
class OptimalSchedule:
    """schedule: factors on `peak_lr`; loss: its predicted final loss; rivals: the same for the usual schedules."""

    schedule: Schedule
    peak_lr: float
    loss: float
    rivals: dict[str, float]


def optimise_schedule(
    law: MultiPowerLaw, steps: int, peak_lr: float, *, floor: float = 0.1, warmup: int = 0, knots: int = 80
) -> OptimalSchedule:
    """The non-increasing schedule of `steps` steps from peak_lr with the smallest predicted final loss.

    ln lr is piecewise linear with drops w_i >= 0 between `knots` knots (dense towards the end), which sum to at most
    ln(1/floor); the drops are a softmax, so every iterate is feasible, and L-BFGS with exact gradients starts from
    three shapes. floor: lowest factor allowed; below the rates that the law was fitted with it extrapolates. Peak rate
    and floor are not optimised: the law was not made to compare peaks.
    Raises UsageError where floor is not within (0, 1), or the warm-up leaves no room.
    """
    if not 0 < floor < 1 or peak_lr <= 0:
        raise UsageError(f"optimise_schedule: floor={floor!r} must lie within (0, 1) and peak_lr={peak_lr!r} be > 0.")
    room = steps - warmup
    if room < 4:
        raise UsageError(f"optimise_schedule: {steps} steps with a warm-up of {warmup} leave too few to optimise.")
    knots = min(knots, room - 1)
    places = _places(room, knots)
    best: tuple[float, Array] | None = None
    for drops in _starts(places, floor):
        loss, factors = _descend(law, places, room, peak_lr, floor, warmup, drops)
        if best is None or loss < best[0]:
            best = (loss, factors)
    assert best is not None
    schedule = from_array(_warm(best[1], warmup), name="multi-power optimum")
    loss = law.final_loss(peak_lr * schedule.factors)
    return OptimalSchedule(schedule, peak_lr, loss, _rivals(law, steps, peak_lr, floor, warmup))


def final_loss_torch(law: MultiPowerLaw, lrs: Tensor) -> Tensor:
    """`MultiPowerLaw.final_loss` with gradients: eqs. 1-3 of arXiv:2503.12811 at the last step, O(T)."""
    summed = torch.cumsum(lrs, 0)
    since = summed[-1] - summed[:-1]  # S_k(T) for k = 1..T-1, 0-based
    response = 1 - (1 + law.C * lrs[1:] ** -law.gamma * since) ** -law.beta
    return law.L0 + law.A * summed[-1] ** -law.alpha - law.B * torch.dot(lrs[:-1] - lrs[1:], response)


def _places(room: int, knots: int) -> Array:
    """Knot steps 0..room-1, spaced ever closer towards the end, where drops matter most."""
    u = 1 - (1 - np.linspace(0, 1, knots + 1)) ** 2
    return np.unique(np.round(u * (room - 1)).astype(int))


def _starts(places: Array, floor: float) -> list[Array]:
    """Drops of ln lr per interval for a straight line, a late linear and a late exponential cooldown to the floor."""
    u = places / places[-1]
    late = np.clip((u - 0.6) / 0.4, 0, 1)
    shapes = [1 - (1 - floor) * u, 1 - (1 - floor) * late, floor**late]
    return [-np.diff(np.log(shape)) for shape in shapes]


def _descend(
    law: MultiPowerLaw, places: Array, room: int, peak_lr: float, floor: float, warmup: int, drops: Array
) -> tuple[float, Array]:
    right, weight = _interpolation(places, room)
    ramp = torch.linspace(1 / warmup, 1, warmup, dtype=torch.float64) if warmup else torch.empty(0, dtype=torch.float64)
    reach = -float(np.log(floor))

    def factors(u: Tensor) -> Tensor:
        share = torch.softmax(u, 0)[:-1]  # the last entry is the part of the range left unused
        logs = torch.cat([share.new_zeros(1), -reach * torch.cumsum(share, 0)])
        return torch.cat([ramp, torch.exp(logs[right - 1] * (1 - weight) + logs[right] * weight)])

    def objective(x: Array) -> tuple[float, Array]:
        u = torch.tensor(x, requires_grad=True)
        loss = final_loss_torch(law, peak_lr * factors(u))
        (slope,) = torch.autograd.grad(loss, u)
        return float(loss.detach()), slope.numpy()

    share = np.append(np.maximum(drops / reach, 1e-6), 1e-3)
    found = minimize(
        objective,
        np.log(share / share.sum()),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-9},
    )
    return float(found.fun), factors(torch.tensor(found.x)).numpy()[warmup:]


def _interpolation(places: Array, room: int) -> tuple[Tensor, Tensor]:
    """For every step (room,): the knot to its right, and that knot's weight."""
    steps = np.arange(room)
    right = np.clip(np.searchsorted(places, steps, side="right"), 1, len(places) - 1)
    weight = (steps - places[right - 1]) / (places[right] - places[right - 1])
    return torch.tensor(right), torch.tensor(weight)


def _warm(factors: Array, warmup: int) -> Array:
    return np.concatenate([(np.arange(warmup) + 1) / warmup, factors]) if warmup else factors


def _rivals(law: MultiPowerLaw, steps: int, peak_lr: float, floor: float, warmup: int) -> dict[str, float]:
    usual = [cosine(steps, final=floor, warmup=warmup), linear(steps, final=floor, warmup=warmup)]
    usual += [
        wsd(steps, cooldown=c, shape=shape, final=floor, warmup=warmup)
        for c in (0.1, 0.2, 0.4, 0.6)
        for shape in ("linear", "1-sqrt")
        if c * steps <= steps - warmup
    ]
    return {s.name: law.final_loss(peak_lr * s.factors) for s in usual}
