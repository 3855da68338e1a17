"""One run of every (scheme, scale) before the grid: a size that cannot be trained is known at once, not after hours."""

# pyright: strict
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hptransfer.core.recipe import Scale
from hptransfer.validation.grid import Grid, job_at
from hptransfer.validation.records.runs import Job, Run

Cell = tuple[str, Scale]
"""A scheme at a scale."""


@dataclass(frozen=True)
class Probed:
    """The probes' runs, and the cells in which none of them could be made."""

    runs: tuple[Run, ...]
    broken: tuple[Cell, ...]

    @property
    def note(self) -> str:
        """What is to be said of the broken cells, with the first error; "" where there is none."""
        if not self.broken:
            return ""
        where = ", ".join(f"{scheme} at {scale}" for scheme, scale in self.broken)
        first = next(run for run in self.runs if run.state == "failed")
        return f"No run could be made of {where}; the first error: {first.error}. Its grid was left out."


def probe(grid: Grid, make: Callable[[Sequence[Job]], list[Run]], *, fingerprint: str) -> Probed:
    """Try every cell at the grid's middle rate with its first seed; where that fails, at two further places.

    The probes are runs of the grid, which are not made again.
    """
    cells = [(scheme, scale) for scheme in grid.schemes for scale in grid.scales]

    def tried(some: Sequence[Cell], lr: float, seed: int) -> list[Run]:
        job = functools.partial(job_at, lr=lr, seed=seed, steps=grid.steps, fingerprint=fingerprint)
        return make([job(scheme, scale) for scheme, scale in some])

    runs: list[Run] = []
    left: Sequence[Cell] = cells
    middle = grid.lrs[len(grid.lrs) // 2]
    places = ((middle, grid.seeds[0]), (grid.lrs[0], grid.seeds[-1]), (middle, grid.seeds[-1]))
    for lr, seed in dict.fromkeys(places):
        latest = tried(left, lr, seed) if left else []
        runs += latest
        left = [cell for cell, run in zip(left, latest, strict=True) if run.state == "failed"] if left else []
    return Probed(tuple(dict.fromkeys(runs)), tuple(left))
