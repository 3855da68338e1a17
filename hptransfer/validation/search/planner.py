"""What a search wants to be run next, worked out anew from the runs there are.

A planner keeps nothing: whoever asks, in whatever order runs end and processes die, the same runs lead to the same
further ones. `GridPlanner` wants every point of a grid; see zoom.py for the one that looks where it matters.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hptransfer.core.training.recipe import Scale
from hptransfer.validation.grid import Grid
from hptransfer.validation.records.runs import Job, Key, Run

Runs = Mapping[Key, Run]


class Planner(Protocol):
    """Decides which jobs a search is made of."""

    def wanted(self, runs: Runs) -> list[Job]:
        """The jobs to do now, the most urgent first, none of them in `runs`; none at all where the search is over."""
        ...

    def chosen(self, runs: Runs) -> list[Job]:
        """The jobs that the search has been made of so far, some of which `runs` may lack."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Wants a list of jobs, in its order."""

    jobs: Sequence[Job]

    def wanted(self, runs: Runs) -> list[Job]:
        """Those that were not run."""
        return [job for job in self.jobs if job.key not in runs]

    def chosen(self, runs: Runs) -> list[Job]:
        """All of them."""
        return list(self.jobs)


@dataclass(frozen=True)
class Without:
    """Wants what another planner wants, but in some (scheme, scale), where no run can be made."""

    planner: Planner
    broken: Collection[tuple[str, Scale]]

    def wanted(self, runs: Runs) -> list[Job]:
        """The other's jobs, those of the broken cells left out."""
        return self.only(self.planner.wanted(runs))

    def chosen(self, runs: Runs) -> list[Job]:
        """The other's jobs, those of the broken cells left out."""
        return self.only(self.planner.chosen(runs))

    def only(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs of cells that are not broken."""
        return [job for job in jobs if (job.scheme, job.scale) not in self.broken]


@dataclass(frozen=True)
class Cell:
    """One (scheme, scale) of a grid: learning rates and seeds are what is run there."""

    grid: Grid
    scheme: str
    scale: Scale
    fingerprint: str

    def job(self, lr: float, seed: int) -> Job:
        """The job of one rate, or value of what the grid sweeps, and seed."""
        return self.grid.job(self.scheme, self.scale, lr, seed, fingerprint=self.fingerprint)

    def losses(self, lrs: Iterable[float], seeds: Sequence[int], runs: Runs) -> dict[float, float]:
        """Learning rate -> mean loss over seeds, where all were run.

        A run that diverged or was stopped makes it inf; rates at which one failed, whose loss nobody knows, are left
        out.
        """
        means: dict[float, float] = {}
        for lr in lrs:
            made = [runs.get(self.job(lr, seed).key) for seed in seeds]
            if all(run is not None and run.state != "failed" for run in made):
                means[lr] = math.fsum(run.val_loss if run.state == "complete" else math.inf for run in made if run)
                means[lr] /= len(seeds)
        return means

    def missing(self, lrs: Iterable[float], seeds: Sequence[int], runs: Runs) -> list[Job]:
        """The jobs of these rates and seeds that were not run."""
        jobs = [self.job(lr, seed) for lr in lrs for seed in seeds]
        return [job for job in jobs if job.key not in runs]


def cells_of(grid: Grid, fingerprint: str) -> list[Cell]:
    """Every (scheme, scale) of a grid, schemes first, in its order."""
    return [Cell(grid, scheme, scale, fingerprint) for scheme in grid.schemes for scale in grid.scales]


@dataclass(frozen=True)
class GridPlanner:
    """Wants every point of a grid; then, for a cell whose best rate is its first or last, up to `extend` octaves more.

    extend: octaves on either side, two rates at a time, at the grid's own spacing.
    """

    grid: Grid
    fingerprint: str
    extend: float = 0.0

    def wanted(self, runs: Runs) -> list[Job]:
        """The grid's jobs that are missing, and the extensions of the cells that have all of them."""
        cells = cells_of(self.grid, self.fingerprint)
        beyond = [job for cell in cells for job in self._beyond(cell, runs)]
        return [*Fixed(self.grid.jobs(self.fingerprint)).wanted(runs), *beyond]

    def chosen(self, runs: Runs) -> list[Job]:
        """The grid's jobs, and those of the extensions."""
        jobs = self.grid.jobs(self.fingerprint)
        for cell in cells_of(self.grid, self.fingerprint):
            more = [lr for lr in self._extended(cell, runs)[0] if lr not in self.grid.lrs]
            jobs += [cell.job(lr, seed) for lr in more for seed in self.grid.seeds]
        return jobs

    def _beyond(self, cell: Cell, runs: Runs) -> list[Job]:
        """The next extension of one cell, none where its best rate lies inside or the extensions are used up."""
        return self._extended(cell, runs)[1]

    def _extended(self, cell: Cell, runs: Runs) -> tuple[list[float], list[Job]]:
        """(the rates of a cell as far as it was extended, the jobs that the next extension lacks)."""
        lrs, seeds = list(self.grid.lrs), self.grid.seeds
        if len(lrs) < 2 or cell.missing(lrs, seeds, runs):
            return lrs, []
        ratio = 2.0 ** float(np.median(np.diff(np.log2(lrs))))
        first, last = lrs[0] * 2.0**-self.extend * (1 - 1e-6), lrs[-1] * 2.0**self.extend * (1 + 1e-6)
        while True:
            means = cell.losses(lrs, seeds, runs)
            side = _edge(means)
            if side == 0:
                return lrs, []
            end = max(lrs) if side > 0 else min(lrs)
            more = [lr for k in (1, 2) if first <= (lr := _rounded(end * ratio ** (side * k))) <= last]
            if not more:
                return lrs, []
            if missing := cell.missing(more, seeds, runs):
                return lrs, missing
            lrs = sorted([*lrs, *more])


def _edge(means: Mapping[float, float]) -> int:
    """-1 or 1 where the best rate is the lowest or the highest (-1 where every rate diverged), 0 inside or unknown."""
    if not means:
        return 0
    lrs = sorted(means)
    if not any(map(math.isfinite, means.values())):
        return -1
    best = min(lrs, key=lambda lr: means[lr])
    return -1 if best == lrs[0] else 1 if best == lrs[-1] else 0


def _rounded(lr: float) -> float:
    """To the digits by which a run's key knows its rate."""
    return float(f"{lr:.12g}")
