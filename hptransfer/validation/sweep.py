"""run_sweep: every scheme x scale x learning rate x seed, on processes or lanes, resumable run by run."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from hptransfer.core.errors import UsageError
from hptransfer.core.recipe import Recipe, Scale, load_recipe
from hptransfer.validation.engines.engine import EngineName, plan_tasks
from hptransfer.validation.engines.pool import Pool, Task, usable_cores
from hptransfer.validation.engines.trainer import Trainer, scale_of
from hptransfer.validation.grid import Grid, checked_device, grid_of
from hptransfer.validation.records.identity import fingerprint
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.mixing import refuse_other_plans
from hptransfer.validation.records.runs import Job, Key, Run

Progress = Callable[[Run], None]


def run_sweep(
    recipe: Recipe | str,
    *,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    scales: Sequence[Scale] | None = None,
    lrs: Sequence[float] | None = None,
    seeds: int | Sequence[int] | None = None,
    schemes: Sequence[str] = ("mup", "sp"),
    steps: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    engine: EngineName = "auto",
    out: str | os.PathLike[str] | None = None,
    plan_options: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Train the recipe at every point of the grid and return the runs in the order of the grid.

    recipe: a Recipe or "FILE.py:name". widths or depths (the base with that axis replaced), or scales; lrs: base
    learning rates; seeds: a count or a list; all default to the recipe's own. workers: processes (default: one per
    usable core on CPU, 1 on an accelerator). engine: "loop", "lanes" (many runs trained as one) or "auto". out: a
    directory whose runs.jsonl gets every run as it finishes; a sweep that was killed goes on from there, and only
    failed runs are tried again. plan_options: further keyword arguments of make_plan.
    A run whose recipe raises is recorded as "failed" and the others go on. Raises UsageError on bad input, before
    anything is trained; where every run failed; and where `out` can no longer be written (finished runs are kept).
    """
    sweep = Sweep.of(recipe, device=device, workers=workers, engine=engine, plan_options=plan_options)
    chosen = {"widths": widths, "depths": depths, "scales": scales, "lrs": lrs, "seeds": seeds, "steps": steps}
    grid = grid_of(sweep.trainer.recipe, schemes=schemes, **chosen)
    refuse_no_growth(sweep.trainer, grid)
    jobs = grid.jobs(sweep.fingerprint)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(RunLog(out)) if out is not None else None
        runs = sweep.make(jobs, log=log)
        refuse_if_all_failed(runs)
    for note in [*(log.notes if log else []), *sweep.notes]:
        print(note, file=sys.stderr)
    return runs


def refuse_no_growth(trainer: Trainer, grid: Grid) -> None:
    """Raise UsageError where the recipe ignores an axis in which the grid's scales differ: it would pass any check."""
    for axis in ("width", "depth"):
        sizes = [size for scale in grid.scales if (size := getattr(scale, axis)) is not None]
        if len(set(sizes)) < 2:
            continue
        ends = [trainer.recipe.base.with_(**{axis: size}) for size in (min(sizes), max(sizes))]
        small, large = ([(n, p.shape) for n, p in trainer.sketch(end).named_parameters()] for end in ends)
        if small == large:
            raise UsageError(
                f"Recipe {trainer.recipe.name!r} builds the same model at {axis} {min(sizes)} and {max(sizes)}. Its "
                f"build(scale) must use scale.{axis}."
            )


@dataclass
class Sweep:
    """What all runs of one recipe share, and what is to be said about how they were made (notes)."""

    trainer: Trainer
    fingerprint: str
    workers: int
    engine: EngineName
    known: dict[Key, Run] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        recipe: Recipe | str,
        *,
        device: str = "auto",
        workers: int | None = None,
        engine: EngineName = "auto",
        plan_options: Mapping[str, Any] | None = None,
    ) -> Sweep:
        """Raises UsageError where the recipe, the device or the number of workers is no good."""
        found = load_recipe(recipe) if isinstance(recipe, str) else recipe
        where = checked_device(device)
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise UsageError(f"workers={workers!r}: must be a whole number of processes, at least 1.")
        if engine not in ("auto", "loop", "lanes"):
            raise UsageError(f"engine={engine!r}: use 'auto', 'loop' or 'lanes'.")
        count = workers or (usable_cores() if where == "cpu" else 1)
        trainer = Trainer(found, device=where, plan_options=plan_options)
        return cls(trainer, fingerprint(found, plan_options or None), count, engine)

    def make(self, jobs: Sequence[Job], *, log: RunLog | None = None) -> list[Run]:
        """The runs of all jobs, in order; those in the log or made before are not made again.

        Raises UsageError where a scale cannot be built or planned, or the log cannot be written.
        """
        if log is not None:
            self.known.update({key: run for key, run in log.known.items() if run.finished})
        todo = [job for job in jobs if job.key not in self.known]
        self.prepare(jobs)
        self.refuse_other_plans(self.known[job.key] for job in jobs if job.key in self.known)
        for run in with_progress(self._made(todo), total=len(todo), label=self.trainer.recipe.name):
            self.known[run.key] = run
            if log is not None:
                log.append(run)
        return [self.known[job.key] for job in jobs]

    def prepare(self, jobs: Iterable[Job]) -> None:
        """Make every plan that the jobs need, once, here; and build what needs none, so that a bad width is found."""
        for scheme, scale in dict.fromkeys((job.scheme, scale_of(job)) for job in jobs):
            if self.trainer.prepare(scheme, scale) is None:
                self.trainer.sketch(scale)

    def refuse_other_plans(self, runs: Iterable[Run]) -> None:
        """Raise UsageError where one of them was trained under another plan than now."""
        refuse_other_plans(runs, lambda job: self.trainer.prepare(job.scheme, scale_of(job)))

    def _made(self, jobs: Sequence[Job]) -> Iterator[Run]:
        """Runs as they finish; wide models first, so that the last ones to finish are short."""
        order = sorted(jobs, key=lambda job: (-(job.depth or 0), -(job.width or 0), -(job.batch or 0)))
        made = plan_tasks(self.trainer, order, engine=self.engine, workers=self.workers)
        self.notes += [note for note in made.notes if note not in self.notes]
        tasks: list[Task] = made.tasks
        if self.workers == 1 or len(tasks) <= 1:
            for task in tasks:
                yield from made.engine(self.trainer, task)
        else:
            yield from Pool(self.trainer, workers=self.workers, engine=made.engine).run(tasks)


def with_progress(runs: Iterator[Run], *, total: int, label: str) -> Iterator[Run]:
    """The same runs, counted by a bar on stderr where that is a terminal."""
    with tqdm(total=total, desc=label, unit="run", file=sys.stderr, disable=None, leave=False) as bar:
        for run in runs:
            yield run
            bar.set_postfix_str(f"{run.scheme} {run.width} lr {run.lr:.3g}: {run.val_loss:.4g}", refresh=False)
            bar.update()


def refuse_if_all_failed(runs: Sequence[Run]) -> None:
    """Raise UsageError with the first error where not a single run could be made."""
    if runs and all(run.state == "failed" for run in runs):
        raise UsageError(f"All {len(runs)} runs failed; the first ({runs[0].job}): {runs[0].error}")
