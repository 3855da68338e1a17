"""The runs of a grid through an Optuna storage: this process's workers and any others take them in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import Trial

from hptransfer.core.errors import UsageError
from hptransfer.validation.engines.trainer import Trainer, failed
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.search.queue import TrialQueue
from hptransfer.validation.search.storage import open_storage, quiet
from hptransfer.validation.search.team import run_team
from hptransfer.validation.sweep import Sweep

ABOUT, JOB = "hptransfer", "job"


def open_queue(url: str, name: str, about: dict[str, Any], sampler: BaseSampler) -> TrialQueue:
    """The trials of the Optuna study of that name, which is made where missing.

    about: what it is a study of, kept in its attributes. Raises UsageError where the study is of something else.
    """
    storage = open_storage(url)
    with quiet():
        study = optuna.create_study(
            study_name=name, storage=storage, direction="minimize", load_if_exists=True, sampler=sampler
        )
        known = study.user_attrs.get(ABOUT)
        if known is None and study.get_trials(deepcopy=False):
            raise UsageError(f"The storage has a study {name!r} that hptransfer did not make. Give another name.")
        if known is None:
            study.set_user_attr(ABOUT, about)
        elif changed := sorted(k for k in about if known.get(k) != about[k]):
            shown = ", ".join(f"{k} was {known.get(k)!r}, now {about[k]!r}" for k in changed)
            raise UsageError(f"Study {name!r} was made with other settings: {shown}. Give another name, or the same.")
    return TrialQueue(study, storage)


@dataclass
class GridWork:
    """Trains the job that a trial carries."""

    trainer: Trainer
    name: str
    fingerprint: str
    new: int = 0

    @property
    def device(self) -> str:
        """Where this work is done."""
        return self.trainer.device

    def open(self, url: str) -> TrialQueue:
        """The queue of this recipe's jobs."""
        about = {"kind": "grid", "recipe": self.trainer.recipe.name, "fingerprint": self.fingerprint}
        return open_queue(url, self.name, about, RandomSampler(seed=0))

    def __call__(self, trial: Trial) -> list[Run]:
        """The one run of a trial; its settings are recorded as Optuna parameters too."""
        job = Job(**trial.user_attrs[JOB])
        trial.suggest_float("lr", 1e-15, 1e15, log=True)
        trial.suggest_int("seed", 0, 2**31)
        for axis in ("width", "depth"):
            if getattr(job, axis) is not None:
                trial.suggest_int(axis, 1, 2**40)
        return [self.trainer.run(job)]


class SharedGrid:
    """Makes runs through the study NAME-FINGERPRINT of a storage, so that no two recipes ever meet in one study."""

    def __init__(self, sweep: Sweep, url: str) -> None:
        name = f"{sweep.trainer.recipe.name}-{sweep.fingerprint}"
        self.sweep, self.url = sweep, url
        self.work = GridWork(sweep.trainer, name, sweep.fingerprint)
        self.queue = self.work.open(url)

    def make(self, jobs: Sequence[Job]) -> list[Run]:
        """The runs of all jobs, in order; what the storage holds is not made again, failed runs are tried once more.

        Raises UsageError where a scale cannot be built or planned, or the database is lost.
        """
        known = self._known()
        todo = [job for job in jobs if job.key not in known or not known[job.key].finished]
        self.sweep.prepare(jobs)
        self.sweep.refuse_other_plans(known[job.key] for job in jobs if job.key in known)
        if todo:
            with quiet():
                self.queue.add((job.key, _params(job), {JOB: asdict(job), "scheme": job.scheme}) for job in todo)
            workers, label = min(self.sweep.workers, len(todo)), self.sweep.trainer.recipe.name
            run_team(self.url, self.queue, self.work, workers=workers, label=label)
            known = self._known()
            for job in todo:
                known.setdefault(job.key, failed(job, "its worker process died each time; out of memory?"))
        self.queue.disconnect()
        return [known[job.key] for job in jobs]

    def _known(self) -> dict[str, Run]:
        return {key: runs[0] for key, runs in self.queue.runs().items()}


def _params(job: Job) -> dict[str, Any]:
    params = {"lr": job.lr, "width": job.width, "depth": job.depth, "seed": job.seed}
    return {name: value for name, value in params.items() if value is not None}
