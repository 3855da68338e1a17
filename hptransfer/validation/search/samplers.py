"""The searches by name: `zoom`, `grid`, and Optuna's own samplers as planners."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Axis
from hptransfer.validation.choices import SamplerName
from hptransfer.validation.grid import Grid
from hptransfer.validation.queue.storage import quiet
from hptransfer.validation.records.runs import Job
from hptransfer.validation.search.planner import Cell, GridPlanner, Planner, Runs, cells_of
from hptransfer.validation.search.zoom import ZoomPlanner

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, n_startup_trials=4),
    "gp": lambda seed: GPSampler(seed=seed, n_startup_trials=4, deterministic_objective=False),
}
"""Optuna's samplers that a check may use, from a seed."""


def planner_of(name: SamplerName, grid: Grid, *, fingerprint: str, extend: float, axis: Axis) -> Planner:
    """The planner of that name. Raises UsageError where there is none."""
    if name == "grid":
        return GridPlanner(grid, fingerprint, extend)
    if name == "zoom":
        return ZoomPlanner(grid, fingerprint, extend, axis)
    if name not in SAMPLERS:
        raise UsageError(f"sampler={name!r}: use one of {', '.join(get_args(SamplerName))}.")
    return SampledPlanner(grid, fingerprint, name, trials=len(grid.lrs))


@dataclass(frozen=True)
class SampledPlanner:
    """Lets an Optuna sampler choose the rates of every cell, one after the other, each run with all seeds.

    grid: lrs[0] and lrs[-1] bound the search; trials: rates per cell. The rates of a cell follow from the losses there
    and from the number of the trial alone, so that a search that was killed goes on as it would have.
    """

    grid: Grid
    fingerprint: str
    sampler: str
    trials: int

    def wanted(self, runs: Runs) -> list[Job]:
        """The next rate of every cell, the largest sizes first."""
        jobs = [job for cell in cells_of(self.grid, self.fingerprint) for job in self._next(cell, runs)]
        return sorted(jobs, key=lambda job: (-(job.depth or 0), -(job.width or 0)))

    def chosen(self, runs: Runs) -> list[Job]:
        """The jobs of the rates chosen so far."""
        jobs: list[Job] = []
        for cell in cells_of(self.grid, self.fingerprint):
            for lr in self._rates(cell, runs):
                jobs += [cell.job(lr, seed) for seed in self.grid.seeds]
        return jobs

    def _next(self, cell: Cell, runs: Runs) -> list[Job]:
        return cell.missing(self._rates(cell, runs)[-1:], self.grid.seeds, runs)

    def _rates(self, cell: Cell, runs: Runs) -> list[float]:
        """The rates of a cell in the order they were asked for; those up to the last are run with all seeds."""
        space: dict[str, BaseDistribution] = {"lr": FloatDistribution(self.grid.lrs[0], self.grid.lrs[-1], log=True)}
        rates: list[float] = []
        with quiet():
            study = optuna.create_study(direction="minimize")
            for number in range(self.trials):
                seed = zlib.crc32(f"{cell.scheme} {cell.scale} {number}".encode())
                study.sampler = SAMPLERS[self.sampler](seed)
                trial = study.ask(space)
                rates.append(float(f"{trial.params['lr']:.12g}"))
                if cell.missing(rates[-1:], self.grid.seeds, runs):
                    break
                loss = cell.losses(rates[-1:], self.grid.seeds, runs).get(rates[-1], math.inf)
                diverged = not math.isfinite(loss)
                study.tell(trial, None if diverged else loss, TrialState.FAIL if diverged else TrialState.COMPLETE)
        return rates
