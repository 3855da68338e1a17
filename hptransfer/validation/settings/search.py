"""tune: the learning rate, then every further setting at the best of the others, each by the zoom."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.core.errors import UsageError
from hptransfer.core.secrets import masked
from hptransfer.core.training.recipe import Recipe
from hptransfer.validation.engines.engine import EngineName
from hptransfer.validation.environment import command_line, environment
from hptransfer.validation.grid import Grid, grid_of
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.runs import Key, Run
from hptransfer.validation.search.zoom import ZoomPlanner
from hptransfer.validation.settings.aim import REACH, around
from hptransfer.validation.settings.effect import refuse_idle
from hptransfer.validation.settings.setting import RATE, Setting
from hptransfer.validation.settings.tuned import TUNED_FILE, Gain, Searched, TunedSettings
from hptransfer.validation.settings.vector import Vector
from hptransfer.validation.sweep import Sweep, refuse_if_all_failed
from hptransfer.validation.verdict.comparisons import transferred_lr
from hptransfer.validation.verdict.optimum import Fit, curve_of, half_width, optima, variance

CLOSER = 2
"""As REACH, in a second round, which begins where the first one ended."""
AGAIN = 1.0
"""Octaves that another setting must have moved by since a setting was searched for it to be searched once more."""
ROUNDS = 2
FEWEST_SEEDS = 3


def tune(
    recipe: Recipe | str,
    settings: Sequence[str] = (),
    *,
    scheme: str = "mup",
    width: int | None = None,
    lrs: Sequence[float] | None = None,
    seeds: int | Sequence[int] | None = None,
    steps: int | None = None,
    extend: float = 4.0,
    storage: str | None = None,
    timeout: float | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    device: str = "auto",
    engine: EngineName = "auto",
    plan_options: Mapping[str, Any] | None = None,
    command: str | None = None,
) -> TunedSettings:
    """Tune the learning rate and further settings at the base, or at another small size, one after the other.

    settings: "weight_decay", "init", or one of "lr", "weight_decay", "init" of some parameters, as "lr:embed*"; a value
    is a factor on the recipe's own. The learning rate comes first, then each setting at the best of the others, by the
    zoom (see ZoomPlanner); a setting keeps its value unless another is surely better. Where others have moved by an
    octave or more since, it is searched once more. width: default the base's. extend: octaves that a search may go
    beyond `lrs`, or four octaves to either side of a factor. out: gets runs.jsonl as runs finish and tuned.json at the
    end; with it or a `storage` the search is resumable. The rest: as in transfer_check.
    Raises UsageError on bad input, where a setting would change nothing, and where all runs of a search fail.
    """
    choices = {"storage": storage, "timeout": timeout, "plan_options": plan_options}
    sweep = Sweep.of(recipe, device=device, workers=workers, engine=engine, **choices)
    named = [setting for setting in map(Setting.named, settings) if not setting.is_rate]
    if len(set(named)) < len(named):
        raise UsageError(f"settings={list(map(str, named))}: give each once.")
    where: dict[str, Any] = {"scales": [sweep.trainer.given.base]} if width is None else {"widths": [width]}
    grid = grid_of(sweep.trainer.recipe, **where, lrs=lrs, seeds=seeds, steps=steps, schemes=[scheme])
    if len(grid.seeds) < FEWEST_SEEDS and named:
        least = f"takes {FEWEST_SEEDS} at least, for an interval"
        raise UsageError(f"seeds={len(grid.seeds)}: to tell whether a setting should move {least}.")
    refuse_idle(sweep.trainer, named)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(RunLog(out)) if out is not None else None
        search = _Tuning(sweep, grid, extend, log)
        search.all(named)
        gain = search.gained()
    result = search.result(named, gain, masked(command or command_line()), (*(log.notes if log else ()), *sweep.notes))
    if out is not None:
        result.save(Path(out) / TUNED_FILE)
    return result


@dataclass
class _Tuning:
    """A search under way. vector: the best so far; searched: how it came about; keys: of the runs it rests on."""

    sweep: Sweep
    grid: Grid
    extend: float
    log: RunLog | None
    vector: Vector = field(default_factory=Vector)
    searched: list[Searched] = field(default_factory=list)
    keys: dict[Key, None] = field(default_factory=dict)

    def all(self, named: Sequence[Setting]) -> None:
        """Search every setting, and in a second round those for which others have moved since."""
        seen: dict[Setting, Vector] = {}
        for number in range(1, ROUNDS + 1):
            for setting in (RATE, *named):
                if setting not in seen or self._others_moved(setting, seen[setting], named):
                    self._search(setting, number)
                    seen[setting] = self.vector

    def _others_moved(self, setting: Setting, then: Vector, named: Sequence[Setting]) -> bool:
        others = [other for other in (RATE, *named) if other != setting]
        return any(abs(math.log2(_value(self.vector, o) / _value(then, o))) >= AGAIN - 1e-9 for o in others)

    def _search(self, setting: Setting, number: int) -> None:
        before = self.vector.value(setting)
        reach = REACH if number == 1 else CLOSER
        values = self.grid.lrs if before is None else around(before, reach)
        grid = dataclasses.replace(self.grid, lrs=values, setting=setting, held=self.vector)
        fit, runs = self._fitted(grid, before)
        cost, low, high = (None, None, None) if before is None else _cost(fit, before)
        value = _best(fit) if before is None or (low is not None and low > 0) else before
        best = optima([fit])[0]
        self.searched.append(
            Searched(
                *(str(setting), number, self.vector.text, before, value, fit.log2_lr, best.low, best.high, fit.loss),
                *(cost, low, high, fit.edge != 0, len(runs)),
            )
        )
        self.vector = self.vector.with_(setting, value)

    def _fitted(self, grid: Grid, before: float | None) -> tuple[Fit, list[Run]]:
        """The curve of one setting, with the value that it has in it, and the runs that it is made of."""
        planner = ZoomPlanner(grid, self.sweep.fingerprint, self.extend)
        known = self.sweep.search(planner, grid.jobs(self.sweep.fingerprint), log=self.log)
        runs = [known[job.key] for job in planner.chosen(known) if job.key in known]
        refuse_if_all_failed(runs)
        if before is not None:
            jobs = dataclasses.replace(grid, lrs=(before,)).jobs(self.sweep.fingerprint)
            runs = list(dict.fromkeys([*runs, *self.sweep.make(jobs, log=self.log)]))
        if all(run.state != "complete" for run in runs):
            raise UsageError(f"No run with any {grid.setting.words} was completed: {self._diverged(runs)}")
        self.keys |= {run.key: None for run in runs}
        size, scheme = grid.scales[0].width or 0, grid.schemes[0]
        return Fit.of(curve_of(runs, scheme=scheme, size=size, seeds=grid.seeds, setting=grid.setting)), runs

    def _diverged(self, runs: Sequence[Run]) -> str:
        lowest = min(self.grid.value(run) for run in runs)
        return f"all {len(runs)} diverged or failed, the lowest at {lowest:.4g}. Give lower lrs, or check the recipe."

    def gained(self) -> Gain | None:
        """The vector against the rate that was tuned alone, on fresh seeds; None where they are one."""
        alone = Vector(self.searched[0].value)
        if self.vector == alone:
            return None
        fresh = tuple(max(self.grid.seeds) + 1 + k for k in range(len(self.grid.seeds)))
        grids = [dataclasses.replace(self.grid, lrs=(v.lr or 0.0,), seeds=fresh, held=v) for v in (self.vector, alone)]
        runs = self.sweep.make([job for grid in grids for job in grid.jobs(self.sweep.fingerprint)], log=self.log)
        self.keys |= {run.key: None for run in runs}
        ours, theirs = np.array([run.val_loss for run in runs]).reshape(2, -1)
        difference = ours - theirs if np.isfinite([ours, theirs]).all() else np.full(len(fresh), math.nan)
        half = half_width([float(difference.var(ddof=1)) / len(fresh)], len(fresh))
        mean = float(difference.mean())
        return Gain(fresh, alone.lr or 0.0, float(theirs.mean()), float(ours.mean()), mean, mean - half, mean + half)

    def result(
        self, named: Sequence[Setting], gain: Gain | None, command: str, notes: tuple[str, ...]
    ) -> TunedSettings:
        """All of it as plain data."""
        scale, recipe = self.grid.scales[0], self.sweep.trainer.recipe
        return TunedSettings(
            recipe=recipe.name,
            scheme=self.grid.schemes[0],
            width=scale.width,
            depth=scale.depth,
            lr=_value(self.vector, RATE),
            factors={str(setting): _value(self.vector, setting) for setting in named},
            searched=tuple(self.searched),
            gain=gain,
            seeds=self.grid.seeds,
            steps=self.grid.steps_at(scale),
            keys=tuple(self.keys),
            fingerprint=self.sweep.fingerprint,
            environment=environment(self.sweep.trainer.device),
            command=command,
            notes=notes,
        )


def _value(vector: Vector, setting: Setting) -> float:
    return vector.value(setting) or 1.0


def _best(fit: Fit) -> float:
    """The optimum to four digits; where it lies at an edge, the best value that was run."""
    inside = transferred_lr(fit)
    return inside if inside is not None else 2.0 ** float(fit.curve.log2_lrs[np.argmin(fit.curve.means)])


def _cost(fit: Fit, value: float) -> tuple[float, float, float]:
    """(what a value costs beside the best, its 90% interval); inf where it was run and diverged.

    Without an interval, for one seed, that is as wide as can be: nobody can tell.
    """
    at, seeds = math.log2(value), fit.curve.seeds
    cost = fit.height(at)
    if not math.isfinite(cost):
        return math.inf, math.inf, math.inf
    half = half_width([variance(fit.heights(np.full(len(fit.losses), at)), seeds)], seeds)
    half = half if math.isfinite(half) else math.inf
    return cost, cost - half, cost + half
