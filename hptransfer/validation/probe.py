"""A few steps of every (scheme, scale) before the grid: what cannot be trained is known now, not in hours."""

# pyright: strict
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hptransfer.core.training.recipe import Scale
from hptransfer.validation.grid import Grid
from hptransfer.validation.records.runs import Job, Run

STEPS = 2
"""Optimizer steps of a probe, with the evaluation after them: enough to build, run and step a model once more."""
Cell = tuple[str, Scale]
"""A scheme at a scale."""


@dataclass(frozen=True)
class Probed:
    """The cells in which no run could be made, and those that were tried there."""

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
    """Train every cell for STEPS steps at the grid's middle rate; where that fails, make runs of the grid there.

    Three runs of the grid, at two rates and seeds, have to fail until a cell counts as broken.
    """
    cells = [(scheme, scale) for scheme in grid.schemes for scale in grid.scales]
    middle = grid.lrs[len(grid.lrs) // 2]

    def tried(some: Sequence[Cell], value: float, seed: int, most: int = 0) -> list[Run]:
        return make([grid.job(*cell, value, seed, fingerprint=fingerprint, most=most) for cell in some])

    brief = tried(cells, middle, grid.seeds[0], STEPS)
    left: Sequence[Cell] = [cell for cell, run in zip(cells, brief, strict=True) if run.state == "failed"]
    runs: list[Run] = []
    places = ((middle, grid.seeds[0]), (grid.lrs[0], grid.seeds[-1]), (middle, grid.seeds[-1]))
    for lr, seed in dict.fromkeys(places):
        latest = tried(left, lr, seed) if left else []
        runs += latest
        left = [cell for cell, run in zip(left, latest, strict=True) if run.state == "failed"] if left else []
    kept = [run for run in runs if (run.scheme, run.job.scale) in left]
    return Probed(tuple(dict.fromkeys(kept)), tuple(left))
