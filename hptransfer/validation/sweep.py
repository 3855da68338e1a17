"""run_sweep: every scheme x scale x learning rate x seed, on processes or lanes, resumable run by run."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Recipe, Scale, load_recipe
from hptransfer.validation.engines.engine import EngineName, Lanes, chosen_lanes
from hptransfer.validation.engines.process import usable_cores
from hptransfer.validation.engines.trainer import Trainer, failed
from hptransfer.validation.grid import Grid, checked_device, grid_of
from hptransfer.validation.queue.jobs import JobWork
from hptransfer.validation.queue.queue import Item, TrialQueue
from hptransfer.validation.queue.storage import journal_url
from hptransfer.validation.queue.team import Team
from hptransfer.validation.records.identity import fingerprint
from hptransfer.validation.records.log import RunLog
from hptransfer.validation.records.mixing import refuse_other_plans
from hptransfer.validation.records.runs import Job, Key, Run
from hptransfer.validation.search.planner import Fixed, Planner


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
    storage: str | None = None,
    out: str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    plan_options: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Train the recipe at every point of the grid and return the runs in the order of the grid.

    recipe: a Recipe or "FILE.py:name". widths or depths (the base with that axis replaced), or scales; lrs: base
    learning rates; seeds: a count or a list; all default to the recipe's own. workers: processes (default: one per
    usable core on CPU, 1 on an accelerator). engine: "loop", "lanes" (many runs trained as one) or "auto". out: a
    directory whose runs.jsonl gets every run as it finishes; a sweep that was killed goes on from there, and only
    failed runs are tried again. storage, timeout: see Sweep. plan_options: further keyword arguments of make_plan.
    A run whose recipe raises is recorded as "failed" and the others go on. Raises UsageError on bad input, before
    anything is trained; where every run failed; and where `out` can no longer be written (finished runs are kept).
    """
    choices = {"storage": storage, "timeout": timeout, "plan_options": plan_options}
    sweep = Sweep.of(recipe, device=device, workers=workers, engine=engine, **choices)
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
    """What all runs of one recipe share, and what is to be said about how they were made (notes).

    storage: the URL of an Optuna storage through which `hptransfer worker` processes may join; default: a journal in
    the directory of the log, or a temporary one. timeout: seconds a task may take. lanes: see engine.chosen_lanes.
    """

    trainer: Trainer
    fingerprint: str
    workers: int
    engine: EngineName
    storage: str | None = None
    timeout: float | None = None
    lanes: Lanes = field(default_factory=Lanes)
    known: dict[Key, Run] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: dict[Scale, Sweep] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        recipe: Recipe | str,
        *,
        device: str = "auto",
        workers: int | None = None,
        engine: EngineName = "auto",
        storage: str | None = None,
        timeout: float | None = None,
        plan_options: Mapping[str, Any] | None = None,
    ) -> Sweep:
        """Raises UsageError where the recipe, the device, the number of workers or the timeout is no good."""
        loaded = load_recipe(recipe) if isinstance(recipe, str) else recipe
        where = checked_device(device)
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise UsageError(f"workers={workers!r}: must be a whole number of processes, at least 1.")
        if engine not in ("auto", "loop", "lanes"):
            raise UsageError(f"engine={engine!r}: use 'auto', 'loop' or 'lanes'.")
        if timeout is not None and not timeout > 0:
            raise UsageError(f"timeout={timeout!r}: must be a positive number of seconds that a run may take.")
        count = workers or (usable_cores() if where == "cpu" else 1)
        trainer = Trainer(loaded, device=where, plan_options=plan_options)
        return cls(trainer, fingerprint(loaded, plan_options or None), count, engine, storage, timeout)

    def with_base(self, base: Scale) -> Sweep:
        """The sweep of the recipe with another base; made once."""
        if base not in self.others:
            recipe = self.trainer.given.replace(base=base)
            choices = {"storage": self.storage, "timeout": self.timeout, "plan_options": self.trainer.plan_options}
            how = {"device": self.trainer.device, "workers": self.workers, "engine": self.engine}
            self.others[base] = Sweep.of(recipe, **how, **choices)
        return self.others[base]

    def make(self, jobs: Sequence[Job], *, log: RunLog | None = None) -> list[Run]:
        """The runs of all jobs, in order; those in the log, the storage or made before are not made again.

        Raises UsageError where a scale cannot be built or planned, or the log cannot be written.
        """
        order = sorted(jobs, key=lambda job: [-(size or 0) for size in (job.depth, job.width, job.experts, job.batch)])
        self.search(Fixed(order), jobs, log=log)
        return [self.known[job.key] for job in jobs]

    def search(self, planner: Planner, examples: Sequence[Job], *, log: RunLog | None = None) -> Mapping[Key, Run]:
        """Make what a planner wants until it wants nothing more; all runs known by then, by key.

        examples: jobs of every scheme and scale that it may want, for which the plans are made first.
        """
        if log is not None:
            self.known.update({key: run for key, run in log.known.items() if run.finished})
        self.prepare(examples)
        self._refuse_other_plans(planner)
        if not planner.wanted(self.known):
            return self.known
        with contextlib.ExitStack() as stack:
            work = JobWork(self.trainer, self.fingerprint, self.lanes.at, self.timeout)
            url = self.storage or stack.enter_context(_journal(log))
            queue = work.open(url)
            stack.callback(queue.disconnect)
            if self.storage is None:
                queue.withdraw()
            self._take_over(queue, log)
            self._refuse_other_plans(planner)
            jobs: dict[Key, Job] = {}

            def wanted() -> list[Item]:
                now = planner.wanted(self.known)
                jobs.update({job.key: job for job in now})
                return [work.item(job) for job in now]

            def told(runs: Mapping[Key, Sequence[Run]]) -> None:
                self._keep([run for several in runs.values() for run in several], log)

            def lost(key: Key, how: str) -> list[Run]:
                why = f"the run {how}" if how.startswith("did not") else f"its worker process {how}; out of memory?"
                return [failed(jobs[key], why)] if key in jobs else []

            total = len(planner.wanted(self.known)) if isinstance(planner, Fixed) else None
            label = self.trainer.recipe.name
            Team(url, queue, work, self.workers, lost, label=label, total=total).run(wanted, told)
        return self.known

    def _take_over(self, queue: TrialQueue, log: RunLog | None) -> None:
        """Keep what the storage holds already: the finished runs of whoever worked on it before."""
        told = [run for runs in queue.news().values() for run in runs]
        self._keep([run for run in told if run.finished and run.key not in self.known], log)

    def _keep(self, runs: Sequence[Run], log: RunLog | None) -> None:
        for run in runs:
            if self.known.get(run.key) != run:
                self.known[run.key] = run
                if log is not None:
                    log.append(run)

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Make every plan that the jobs need, once, here; and build what needs none, so that a bad width is found.

        The engine is chosen too.
        """
        for scheme, scale, settings in dict.fromkeys((job.scheme, job.scale, job.settings) for job in jobs):
            if self.trainer.prepare(scheme, scale, settings) is None:
                self.trainer.sketch(scale)
        unknown = [job for job in jobs if job.scale not in self.lanes.decided]
        chosen = chosen_lanes(self.trainer, unknown, engine=self.engine, workers=self.workers)
        self.lanes = Lanes({**self.lanes.at, **chosen.at}, chosen.notes, self.lanes.decided | chosen.decided)
        self.notes += [note for note in chosen.notes if note not in self.notes]

    def _refuse_other_plans(self, planner: Planner) -> None:
        """Raise UsageError where a run that the search would use was trained under another plan than now."""
        used = [self.known[job.key] for job in planner.chosen(self.known) if job.key in self.known]
        refuse_other_plans(used, self.trainer.prepared)


@contextlib.contextmanager
def _journal(log: RunLog | None) -> Iterator[str]:
    """The URL of the journal beside a log, or of one that is removed afterwards."""
    if log is not None:
        yield journal_url(log.path.parent)
        return
    with tempfile.TemporaryDirectory(prefix="hptransfer-") as directory:
        yield journal_url(Path(directory))


def refuse_if_all_failed(runs: Sequence[Run]) -> None:
    """Raise UsageError with the first error where not a single run could be made."""
    if runs and all(run.state == "failed" for run in runs):
        raise UsageError(f"All {len(runs)} runs failed; the first ({runs[0].job}): {runs[0].error}")
