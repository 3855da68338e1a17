"""The measurement behind a transfer check: the grid, its extensions, and runs at the transferred learning rate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hptransfer.core.recipe import Axis
from hptransfer.validation.engines.trainer import scale_of
from hptransfer.validation.grid import Grid, job_at
from hptransfer.validation.probe import probe
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.sweep import refuse_if_all_failed
from hptransfer.validation.verdict.comparisons import transferred_lr
from hptransfer.validation.verdict.optimum import Fit, curve_of

Make = Callable[[Sequence[Job]], list[Run]]
"""Jobs to their runs, however they are made; a job made before is not made again."""


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


def measure(grid: Grid, make: Make, *, fingerprint: str, extend: float, axis: Axis = "width") -> Measurement:
    """Make every run of the grid; extend it where a best rate is its first or last; then transfer the optimum.

    axis: what the grid's scales differ in. extend: at most this many octaves on either side, for the (scheme, size)
    that needs it only.
    Raises UsageError where all runs of a scheme fail.
    """
    probed = probe(grid, make, fingerprint=fingerprint)
    for scheme in grid.schemes:
        refuse_if_all_failed([run for run in probed.runs if run.scheme == scheme])
    if probed.note:
        print(probed.note, file=sys.stderr)
    runs = make([job for job in grid.jobs(fingerprint) if (job.scheme, scale_of(job)) not in probed.broken])
    runs += [run for run in probed.runs if (run.scheme, scale_of(run.job)) in probed.broken]
    for scheme in grid.schemes:
        refuse_if_all_failed([run for run in runs if run.scheme == scheme])
    fits = fitted(grid, runs, axis)
    while more := [(fit, lr) for fit in fits for lr in _beyond(fit, grid, extend)]:
        runs += make([job for fit, lr in more for job in _jobs(fit, lr, grid, fingerprint)])
        fits = fitted(grid, runs, axis)
    lrs = tuple(sorted({run.lr for run in runs}))
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
        Fit.of(curve_of(runs, scheme=scheme, size=size, seeds=grid.seeds, axis=axis))
        for scheme in grid.schemes
        for size in sizes_of(grid, axis)
    ]


def sizes_of(grid: Grid, axis: Axis) -> list[int]:
    """The grid's widths, or its depths, ascending."""
    return sorted(getattr(scale, axis) or 0 for scale in grid.scales)


def _beyond(fit: Fit, grid: Grid, extend: float) -> list[float]:
    """Up to two further learning rates on the side where the best one is the last, within `extend` octaves.

    None where runs failed on that side: they were tried, and would fail again.
    """
    if fit.edge == 0 or fit.blocked or len(fit.curve.log2_lrs) == 0:
        return []
    spacing = float(np.median(np.diff(np.log2(grid.lrs))))
    first, last = np.log2(grid.lrs[0]) - extend - 1e-6, np.log2(grid.lrs[-1]) + extend + 1e-6
    end = float(fit.curve.log2_lrs[0] if fit.edge < 0 else fit.curve.log2_lrs[-1])
    points = [end + fit.edge * spacing * k for k in (1, 2)]
    tried = [*fit.curve.log2_lrs, *fit.curve.failed]
    fresh = [x for x in points if first <= x <= last and min(abs(x - t) for t in tried) > 1e-6]
    return [float(f"{2.0**x:.12g}") for x in fresh]


def _jobs(fit: Fit, lr: float, grid: Grid, fingerprint: str) -> list[Job]:
    scheme, axis = fit.curve.scheme, fit.curve.axis
    scale = next(s for s in grid.scales if getattr(s, axis) == fit.curve.size)
    return [job_at(scheme, scale, lr=lr, seed=s, steps=grid.steps, fingerprint=fingerprint) for s in grid.seeds]
