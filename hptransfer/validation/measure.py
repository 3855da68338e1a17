"""The measurement behind a transfer check: the grid, its extensions, and runs at the transferred learning rate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from hptransfer.core.training.recipe import Axis
from hptransfer.validation.grid import Grid
from hptransfer.validation.probe import Cell, probe
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.sweep import refuse_if_all_failed
from hptransfer.validation.verdict.comparisons import transferred_lr
from hptransfer.validation.verdict.optimum import Fit, curve_of

Make = Callable[[Sequence[Job]], list[Run]]
"""Jobs to their runs, however they are made; a job made before is not made again."""
SearchRuns = Callable[[Collection[Cell]], Iterable[Run]]
"""Makes all runs of a search but those of some cells, in which none can be made."""


@dataclass(frozen=True)
class Measurement:
    """All runs of a check and the curve fitted for every (scheme, size). notes: what could not be measured.

    lrs: the grid with its extensions. transferred: scheme -> the smallest size's optimal LR, which the largest was
    trained with; a scheme without one is left out.
    """

    grid: Grid
    runs: list[Run]
    fits: list[Fit]
    lrs: tuple[float, ...]
    transferred: dict[str, float]
    notes: tuple[str, ...] = ()

    def of(self, scheme: str) -> list[Fit]:
        """The fits of one scheme, by ascending size."""
        return [fit for fit in self.fits if fit.curve.scheme == scheme]


def measure(grid: Grid, search: SearchRuns, make: Make, *, fingerprint: str, axis: Axis = "width") -> Measurement:
    """Search every optimum, then train the largest size at the smallest one's.

    search: makes the runs of the search, all of them. axis: what the grid's scales differ in.
    Raises UsageError where all runs of a scheme fail.
    """
    probed = probe(grid, make, fingerprint=fingerprint)
    for scheme in grid.schemes:
        if all((scheme, scale) in probed.broken for scale in grid.scales):
            refuse_if_all_failed([run for run in probed.runs if run.scheme == scheme])
    if probed.note:
        print(probed.note, file=sys.stderr)
    runs = [*search(probed.broken), *probed.runs]
    for scheme in grid.schemes:
        refuse_if_all_failed([run for run in runs if run.scheme == scheme])
    fits = fitted(grid, runs, axis)
    lrs = tuple(sorted({grid.value(run) for run in runs}))
    small, large = min(sizes := sizes_of(grid, axis)), max(sizes)
    transferred = {
        fit.curve.scheme: lr for fit in fits if fit.curve.size == small and (lr := transferred_lr(fit)) is not None
    }
    widest = [fit for fit in fits if fit.curve.size == large and fit.found]
    ends = [(fit, transferred[s]) for fit in widest if (s := fit.curve.scheme) in transferred]
    runs += make([job for fit, lr in ends if lr not in lrs for job in _jobs(fit, lr, grid, fingerprint)])
    return Measurement(grid, runs, fitted(grid, runs, axis), lrs, transferred, (probed.note,) if probed.note else ())


def fitted(grid: Grid, runs: Sequence[Run], axis: Axis = "width") -> list[Fit]:
    """The fit of every (scheme, size) of a grid, sizes ascending."""
    return [
        Fit.of(curve_of(runs, scheme=scheme, size=size, seeds=grid.seeds, axis=axis, setting=grid.setting))
        for scheme in grid.schemes
        for size in sizes_of(grid, axis)
    ]


def sizes_of(grid: Grid, axis: Axis) -> list[int]:
    """The grid's widths, or its depths, ascending."""
    return sorted(getattr(scale, axis) or 0 for scale in grid.scales)


def _jobs(fit: Fit, lr: float, grid: Grid, fingerprint: str) -> list[Job]:
    scheme, axis = fit.curve.scheme, fit.curve.axis
    scale = next(s for s in grid.scales if getattr(s, axis) == fit.curve.size)
    return [grid.job(scheme, scale, lr, seed, fingerprint=fingerprint) for seed in grid.seeds]
