"""Jobs of a recipe as trials: the study they are in, what a trial carries, and how it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import Trial

from hptransfer.core.errors import UsageError
from hptransfer.core.rules import SCHEMES
from hptransfer.core.training.recipe import Scale
from hptransfer.validation.engines.engine import train_jobs
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.queue.queue import Item, TrialQueue
from hptransfer.validation.queue.storage import open_storage, quiet
from hptransfer.validation.records.runs import Job, Run

ABOUT, JOB, BASE = "hptransfer", "job", "base"
"""What a study is of; a trial's job; the base's scale, of which a check over batch says more than the recipe does."""
SPACES: Mapping[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-30, 1e30, log=True),
    "seed": IntDistribution(0, 2**31),
    "width": IntDistribution(1, 2**40),
    "depth": IntDistribution(1, 2**40),
}
"""The settings of a job that Optuna's own tools show."""


def open_queue(url: str, name: str, about: dict[str, Any], sampler: BaseSampler, *, wait: bool = False) -> TrialQueue:
    """The trials of the Optuna study of that name, which is made where missing.

    about: what it is a study of, kept in its attributes. wait: see open_storage. Raises UsageError where the study is
    of something else.
    """
    storage = open_storage(url, wait=wait)
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
class JobWork:
    """Trains the jobs that trials carry, through the study NAME-FINGERPRINT: no two recipes ever meet in one study.

    sizes: how many alike jobs are trained as one at each scale. timeout: seconds a task may take.
    """

    trainer: Trainer
    fingerprint: str
    sizes: Mapping[Scale, int] = field(default_factory=dict)
    timeout: float | None = None
    new: int = 0

    @property
    def device(self) -> str:
        """Where this work is done."""
        return self.trainer.device

    @property
    def name(self) -> str:
        """The study's."""
        return f"{self.trainer.recipe.name}-{self.fingerprint}"

    def open(self, url: str, *, wait: bool = False) -> TrialQueue:
        """The queue of this recipe's jobs. wait: see open_storage."""
        about = {"kind": "grid", "recipe": self.trainer.recipe.name, "fingerprint": self.fingerprint}
        queue = open_queue(url, self.name, about, RandomSampler(seed=0), wait=wait)
        if BASE not in queue.study.user_attrs:
            with quiet():
                queue.study.set_user_attr(BASE, asdict(self.trainer.recipe.base))
        return queue

    def item(self, job: Job) -> Item:
        """The trial of a job; jobs of one scheme, scale, length and settings are alike."""
        values = {name: getattr(job, name) for name in SPACES}
        params = {name: value for name, value in values.items() if value is not None}
        spaces: dict[str, BaseDistribution] = {name: SPACES[name] for name in params}
        params["scheme"], spaces["scheme"] = job.scheme, CategoricalDistribution(sorted(SCHEMES))
        kind = f"{job.scheme} {job.scale} {job.steps} {job.settings}"
        return Item(job.key, params, {JOB: asdict(job)}, spaces, kind)

    def lanes(self, trial: Trial) -> int:
        """How many trials like this one are done as one."""
        return self.sizes.get(Job(**trial.user_attrs[JOB]).scale, 1)

    def __call__(self, trials: Sequence[Trial]) -> list[list[Run]]:
        """The one run of each trial."""
        jobs = [Job(**trial.user_attrs[JOB]) for trial in trials]
        return [[run] for run in train_jobs(self.trainer, jobs)]
