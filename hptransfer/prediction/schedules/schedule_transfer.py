"""From the best base rate of one schedule and horizon to another's: the convex bound's ratio, shrunk as measured.

The bound says lr* ~ g(schedule) / sqrt(T), with g = gamma* sqrt(T) nearly free of T. Real runs follow the first
factor closely and the second only partly, so the ratio used is

    lr'/lr = [g(target)/g(source)]^s_schedule  x  (T_target/T_source)^(-s_horizon/2)

and the two shrinkage exponents s are measured. Shipped: a fit to 126 public runs of a 124M Llama (data of Schaipp et
al. 2025, arXiv:2501.18965; MIT licence), one model, data set, batch and optimizer; scripts/bench_laws.py recomputes
it, and `fit_shrinkage` makes the reader's own from a few runs. s = 1 would be the theory, s = 0 "do not change it".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.horizon.carried import DURATION_RULES
from hptransfer.core.training.seeding import numpy_generator
from hptransfer.prediction.provenance import Kind, Prediction
from hptransfer.prediction.schedules.convex_bound import convex_bound
from hptransfer.prediction.schedules.schedule import Schedule

Array = np.ndarray


@dataclass(frozen=True)
class ScheduleRun:
    """One finished run: its family (schedules that differ in length only), schedule, base rate and final loss."""

    family: str
    schedule: Schedule
    lr: float
    loss: float


@dataclass(frozen=True)
class Shrinkage:
    """How much of the bound's log-ratio real optima show.

    schedule, horizon: the exponents s, each with a (low, high) 90% interval from resampling families.
    residual: standard deviation of ln lr* around the law. groups: optima fitted. source: which runs.
    """

    schedule: float
    schedule_interval: tuple[float, float]
    horizon: float
    horizon_interval: tuple[float, float]
    residual: float
    groups: int
    source: str


_BOUND = DURATION_RULES["bound"]
SHRINKAGE = Shrinkage(
    schedule=0.9154,
    schedule_interval=(0.766, 0.996),
    horizon=-2 * _BOUND.exponent,
    horizon_interval=(-2 * _BOUND.interval[1], -2 * _BOUND.interval[0]),
    residual=0.0465,
    groups=29,
    source="124M Llama on SlimPajama, AdamW, public runs of arXiv:2501.18965; all decay to zero; this fit",
)

MEASURED_COOLDOWN: dict[float, float] = {
    0.1: 0.031,
    0.2: 0.015,
    0.4: 0.003,
    0.6: 0.0,
    0.8: 0.002,
    0.9: 0.003,
    1.0: 0.005,
}
"""Linear cooldown fraction -> loss above the best fraction, in nats, each at its own fitted best rate, for the same
124M model at 50,000 steps (1.0 stands for .994, the run being 300 steps of warm-up and then linear). The bound puts
the minimum at 1.0; these runs put it near 0.6 to 0.8, and .2 costs .015."""


@dataclass(frozen=True)
class LrTransfer:
    """A transferred base rate with the theory's ratio beside the one used.

    theory_ratio = schedule_ratio * horizon_ratio is the bound's; ratio is the shrunk one that gave `prediction`.
    """

    prediction: Prediction
    theory_ratio: float
    schedule_ratio: float
    horizon_ratio: float
    ratio: float
    shrinkage: Shrinkage

    def __str__(self) -> str:
        s = self.shrinkage
        return (
            f"bound: x{self.theory_ratio:.3f} (schedule x{self.schedule_ratio:.3f}, "
            f"horizon x{self.horizon_ratio:.3f}); measured shrinkage {s.schedule:.2f} and {s.horizon:.2f}: "
            f"x{self.ratio:.3f}. {self.prediction}"
        )


def transfer_lr(
    lr: float, source: Schedule, target: Schedule, *, shrinkage: Shrinkage = SHRINKAGE, measured: bool = True
) -> LrTransfer:
    """The base rate for `target` given the best one for `source` (same model, data and batch).

    measured: whether `lr` came from a sweep (else it was just given). The interval is the 90% one of the shrinkage
    exponents and the residual, in quadrature; it does not hold the error of `lr` itself. Raises UsageError where lr
    is not positive.
    """
    if not (lr > 0 and math.isfinite(lr)):
        raise UsageError(f"lr={lr!r} must be positive and finite.")
    schedule, horizon = _log_parts(target) - _log_parts(source)  # ln g ratio, -1/2 ln T ratio
    s = shrinkage
    middle = s.schedule * schedule + s.horizon * horizon
    reach = 1.645 * s.residual * math.sqrt(2) if schedule or horizon else 0.0  # two optima, each off the law
    down, up = (
        math.hypot(reach, *(_reach(part, value, span, side) for part, value, span in _terms(s, schedule, horizon)))
        for side in (-1, 1)
    )
    prediction = Prediction(
        name="base learning rate",
        value=lr * math.exp(middle),
        low=lr * math.exp(middle - down),
        high=lr * math.exp(middle + up),
        unit="1",
        law="convex bound with measured shrinkage",
        source=f"arXiv:2501.18965 Thm 1; shrinkage: {s.source}",
        assumptions=("same model, data, batch and optimizer", *_warnings(source, target)),
        kind=Kind("published" if s is SHRINKAGE else "fitted", "measured" if measured else "given"),
    )
    return LrTransfer(
        prediction, math.exp(schedule + horizon), math.exp(schedule), math.exp(horizon), math.exp(middle), s
    )


def transfer_shape(lr: float, source: Schedule, target: Schedule, *, shrinkage: Shrinkage = SHRINKAGE) -> LrTransfer:
    """As `transfer_lr`, for the shape alone: the target's schedule resampled to the source's length."""
    progress = (np.arange(source.steps) + 0.5) / source.steps
    factors = np.array([target.at_progress(float(x)) for x in progress])
    return transfer_lr(lr, source, Schedule(target.name, factors, target.lines), shrinkage=shrinkage)


def fit_shrinkage(
    runs: Sequence[ScheduleRun], *, window: float = 4.0, resamples: int = 500, seed: int = 0, source: str = "own runs"
) -> Shrinkage:
    """The two shrinkage exponents from finished runs of several schedules and horizons.

    Runs with the same family and number of steps form a group; within a factor `window` of the group's best rate all
    groups share one curvature of loss in ln lr (linear least squares), which gives an optimum even at the edge of a
    grid. The optima are then regressed on the bound's two log factors. Intervals: 90%, families resampled.
    Raises UsageError with fewer than 3 usable groups, or where schedules or horizons do not vary.
    """
    optima = group_optima(runs, window=window)
    if len(optima) < 3:
        raise UsageError(f"Shrinkage needs >= 3 groups with runs at >= 2 rates each, but {len(optima)} are usable.")
    families = [o.family for o in optima]
    features = np.array([_log_parts(o.schedule) for o in optima])
    target = np.array([o.log_lr for o in optima])
    fit = _regress(features, target)
    if fit is None:
        raise UsageError("Shrinkage needs runs of at least two schedules and two horizons that vary independently.")
    draws = _resample(families, features, target, resamples, numpy_generator(seed))
    low, high = np.quantile(draws, [0.05, 0.95], axis=0) if len(draws) else (np.full(3, -np.inf), np.full(3, np.inf))
    residual = target - np.column_stack([np.ones(len(target)), features]) @ fit
    freedom = max(1, len(target) - 3)
    return Shrinkage(
        float(fit[1]),
        (float(min(low[1], fit[1])), float(max(high[1], fit[1]))),
        float(fit[2]),
        (float(min(low[2], fit[2])), float(max(high[2], fit[2]))),
        math.sqrt(float(residual @ residual) / freedom),
        len(optima),
        source,
    )


@dataclass(frozen=True)
class GroupOptimum:
    """The fitted best rate of one family and horizon: ln lr*, the loss there, and whether it lies inside the rates."""

    family: str
    schedule: Schedule
    log_lr: float
    loss: float
    inside: bool


def group_optima(runs: Sequence[ScheduleRun], *, window: float = 4.0) -> list[GroupOptimum]:
    """Per family and number of steps, the vertex of loss = c + b x + a x^2, x = ln lr, with `a` shared by all."""
    groups: dict[tuple[str, int], list[ScheduleRun]] = {}
    for run in runs:
        if math.isfinite(run.loss) and run.lr > 0:
            groups.setdefault((run.family, run.schedule.steps), []).append(run)
    near = {key: _near_best(members, window) for key, members in groups.items()}
    near = {key: members for key, members in near.items() if len({r.lr for r in members}) >= 2}
    if not near or all(len({r.lr for r in members}) < 3 for members in near.values()):
        return []
    rows = [(i, math.log(r.lr), r.loss) for i, members in enumerate(near.values()) for r in members]
    index, x, y = (np.array(column) for column in zip(*rows, strict=True))
    one_hot = (index[:, None] == np.arange(len(near))).astype(float)
    middle = x.mean()  # centred, so that 1, x and x^2 are far from collinear
    design = np.column_stack([one_hot, one_hot * (x - middle)[:, None], (x - middle) ** 2])
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    c, b, a = solution[: len(near)], solution[len(near) : -1], solution[-1]
    if a <= 0:
        return []
    vertex, loss = middle - b / (2 * a), c - b**2 / (4 * a)
    return [
        GroupOptimum(key[0], members[0].schedule, float(at), float(lowest), _inside(members, float(at)))
        for (key, members), at, lowest in zip(near.items(), vertex, loss, strict=True)
    ]


def _log_parts(schedule: Schedule) -> Array:
    """ln of the bound's two factors of gamma*: g = gamma* sqrt(T), and T^-1/2."""
    half = 0.5 * math.log(schedule.steps)
    return np.array([math.log(convex_bound(schedule).best_lr) + half, -half])


def _terms(s: Shrinkage, schedule: float, horizon: float) -> list[tuple[float, float, tuple[float, float]]]:
    return [(schedule, s.schedule, s.schedule_interval), (horizon, s.horizon, s.horizon_interval)]


def _reach(part: float, value: float, span: tuple[float, float], side: int) -> float:
    """How far the interval of an exponent moves part * exponent to one side."""
    ends = [part * (end - value) for end in span]
    return abs(min(ends) if side < 0 else max(ends))


def _warnings(source: Schedule, target: Schedule) -> tuple[str, ...]:
    ends = [s.name for s in (source, target) if s.factors[-1] > 0.02 * s.factors.max()]
    if not ends:
        return ()
    return (
        f"{' and '.join(ends)} does not decay to zero, and the shrinkage was measured on schedules that do: the bound "
        "sets such schedules' rates too high (measured: 1.4x for a cosine to 10%, 2x or more for a constant)",
    )


def _regress(features: Array, target: Array) -> Array | None:
    spread = np.linalg.svd(features - features.mean(0), compute_uv=False) / math.sqrt(len(target))
    if len(target) < 3 or spread[-1] < 0.02:  # both must vary by 2% or more, and not together
        return None
    design = np.column_stack([np.ones(len(target)), features])
    return np.linalg.lstsq(design, target, rcond=None)[0]


def _resample(families: list[str], features: Array, target: Array, count: int, rng: np.random.Generator) -> list[Array]:
    names = sorted(set(families))
    members = {name: np.array([i for i, f in enumerate(families) if f == name]) for name in names}
    draws: list[Array] = []
    for _ in range(count):
        picked = np.concatenate([members[names[j]] for j in rng.integers(len(names), size=len(names))])
        if (fit := _regress(features[picked], target[picked])) is not None:
            draws.append(fit)
    return draws


def _near_best(members: list[ScheduleRun], window: float) -> list[ScheduleRun]:
    """Runs within a factor `window` of the best rate and 5% of the best loss: past those no parabola holds."""
    best = min(members, key=lambda r: r.loss)
    low, high = best.lr / window * 0.999, best.lr * window * 1.001
    return [r for r in members if low <= r.lr <= high and r.loss <= 1.05 * best.loss]


def _inside(members: list[ScheduleRun], vertex: float) -> bool:
    lrs = [r.lr for r in members]
    return math.log(min(lrs)) <= vertex <= math.log(max(lrs))
