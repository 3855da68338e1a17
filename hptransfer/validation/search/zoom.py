"""The search of a transfer check: far apart with one seed first, then half an octave apart where the optimum is.

At the smallest size rates two octaves apart are run with one seed, at every other one the transferred rate and those
an octave beside it; the best is followed, an octave at a time, until both its neighbours are worse. Around the best
one -1, -1/2, 0, 1/2 and 1 octave are then run with all seeds, which moves on where the mean is lowest elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hptransfer.core.training.recipe import Axis
from hptransfer.validation.engines.trainer import CONTROL
from hptransfer.validation.grid import Grid
from hptransfer.validation.records.runs import Job
from hptransfer.validation.search.planner import Cell, Runs, cells_of

OCTAVE = 2
"""Steps of the lattice of rates in an octave."""
FINE = (-OCTAVE, -1, 0, 1, OCTAVE)
"""Steps from the best rate that are run with all seeds."""
MOVES: dict[Axis, float] = {
    **{"width": -1.0, "depth": -1.0, "batch": 0.5, "tokens": 0.0},
    **{"experts": 0.0, "active": 0.0, "expert_width": -1.0},
}
"""The exponent of the size by which a search expects the control's best rate to move, until it knows better.

Only where it looks first depends on it. Width: see tune.transferred_guess; batch: the square root of sign steps.
"""


@dataclass(frozen=True)
class ZoomPlanner:
    """Wants coarse rates with one seed, then fine ones with all seeds where the optimum is.

    grid: lrs[0] and lrs[-1] bound the coarse search. extend: octaves beyond them that it may follow the optimum.
    axis: what the grid's scales differ in.
    """

    grid: Grid
    fingerprint: str
    extend: float = 4.0
    axis: Axis = "width"

    def wanted(self, runs: Runs) -> list[Job]:
        """What every cell wants now, large sizes first: the last runs to end should be short ones."""
        jobs = [job for scheme in self.grid.schemes for job in self._of(scheme, runs)]
        return sorted(jobs, key=lambda job: -(getattr(job, self.axis) or 0))

    def chosen(self, runs: Runs) -> list[Job]:
        """The jobs on the lattice that were run."""
        first, last = self.bounds
        cells = cells_of(self.grid, self.fingerprint)
        lrs = [self.rate(step) for step in range(first, last + 1)]
        return [job for cell in cells for lr in lrs for s in self.grid.seeds if (job := cell.job(lr, s)).key in runs]

    def _of(self, scheme: str, runs: Runs) -> list[Job]:
        """What one scheme's cells want; a cell waits until there is a smaller one to start from."""
        jobs: list[Job] = []
        centres: list[tuple[int, int]] = []
        for scale in sorted(self.grid.scales, key=lambda scale: getattr(scale, self.axis) or 0):
            size = getattr(scale, self.axis) or 1
            starts = self._coarse() if not centres else self._around(_guess(scheme, centres, size, self._move))
            search = _Search(self, Cell(self.grid, scheme, scale, self.fingerprint), runs)
            missing, best = search.sought(starts)
            if missing or best is None:
                jobs += missing
                if missing and not centres:
                    break
                continue
            missing, fine = search.refined(best)
            jobs += missing
            if scheme != CONTROL:
                centres = centres or [(size, best)]  # what is said to transfer
            elif missing:
                break
            else:
                centres.append((size, fine))
        return jobs

    @property
    def _move(self) -> float:
        """The exponent by which the control's best value is taken to move; of what is no rate nobody knows."""
        return MOVES[self.axis] if self.grid.setting.is_rate else 0.0

    def _coarse(self) -> list[int]:
        last = round(OCTAVE * math.log2(self.grid.lrs[-1] / self.grid.lrs[0]))
        spacing = 2 * OCTAVE
        return list(range(last % spacing // 2, last + 1, spacing))

    def _around(self, guess: int) -> list[int]:
        first, last = self.bounds
        guess = min(max(guess, first + OCTAVE), max(last - OCTAVE, first + OCTAVE))
        return [guess - OCTAVE, guess, guess + OCTAVE]

    @property
    def bounds(self) -> tuple[int, int]:
        """The first and the last step of the lattice that may be run."""
        beyond, span = OCTAVE * self.extend, OCTAVE * math.log2(self.grid.lrs[-1] / self.grid.lrs[0])
        return math.ceil(-beyond - 1e-6), math.floor(span + beyond + 1e-6)

    def rate(self, step: int) -> float:
        """The learning rate of a step of the lattice."""
        return float(f"{self.grid.lrs[0] * 2 ** (step / OCTAVE):.12g}")


@dataclass(frozen=True)
class _Search:
    """The search in one cell. Steps stand for rates on the planner's lattice."""

    plan: ZoomPlanner
    cell: Cell
    runs: Runs

    def sought(self, starts: Sequence[int]) -> tuple[list[Job], int | None]:
        """Follow the first seed's best rate until it is beaten on both sides: (jobs wanted for that, the best step).

        Only steps whole octaves from the starts count: what is run later between them moves nothing.
        """
        seeds = self.cell.grid.seeds[:1]
        if missing := self._missing(self._inside(starts), seeds):
            return missing, None
        means = {s: loss for s, loss in self._means(seeds).items() if (s - starts[0]) % OCTAVE == 0}
        finite = [step for step in means if math.isfinite(means[step])]
        if not finite:
            lower = self._inside([min(means) - 2 * OCTAVE]) if means else []
            return self._missing(lower, seeds), None
        best = min(finite, key=lambda step: means[step])
        return self._missing(self._inside([best - OCTAVE, best + OCTAVE]), seeds), best

    def refined(self, best: int) -> tuple[list[Job], int]:
        """Run the steps around the best one with all seeds, and follow their mean: (jobs wanted now, the best step)."""
        seeds = self.cell.grid.seeds
        while True:
            if missing := self._missing(self._inside(best + step for step in FINE), seeds):
                return missing, best
            means = self._means(seeds)
            lowest = min(means, key=lambda step: means[step], default=best)
            if not means.get(lowest, math.inf) < means.get(best, math.inf):
                return [], best
            best = lowest

    def _means(self, seeds: Sequence[int]) -> dict[int, float]:
        first, last = self.plan.bounds
        steps = {self.plan.rate(step): step for step in range(first, last + 1)}
        return {steps[lr]: loss for lr, loss in self.cell.losses(steps, seeds, self.runs).items()}

    def _missing(self, steps: Iterable[int], seeds: Sequence[int]) -> list[Job]:
        return self.cell.missing([self.plan.rate(step) for step in steps], seeds, self.runs)

    def _inside(self, steps: Iterable[int]) -> list[int]:
        first, last = self.plan.bounds
        return [step for step in steps if first <= step <= last]


def _guess(scheme: str, centres: Sequence[tuple[int, int]], size: int, slope: float) -> int:
    """The step to start at: the smallest size's best one; for the control it is moved on as it moved so far.

    slope: the exponent by which the control is taken to move between its first two sizes.
    """
    if scheme != CONTROL:
        return centres[0][1]
    last, step = centres[-1]
    if len(centres) > 1:
        before, other = centres[-2]
        slope = min(max((step - other) / (OCTAVE * math.log2(last / before)), -1.5), 1.0)
    return round(step + OCTAVE * slope * math.log2(size / last))
