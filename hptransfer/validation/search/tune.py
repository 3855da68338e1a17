"""Tuning one proxy: what a trial of the search is, how it is pruned, and the learning rate it starts from."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import optuna
from optuna.exceptions import OptunaError
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from hptransfer.core.errors import described
from hptransfer.core.files import encode
from hptransfer.core.training.recipe import Recipe
from hptransfer.validation.choices import Pruning
from hptransfer.validation.engines.trainer import CONTROL, Pruned, Trainer, failed
from hptransfer.validation.queue.jobs import open_queue
from hptransfer.validation.queue.queue import TrialQueue
from hptransfer.validation.records.runs import Job, Run

Space = Callable[[Trial, Recipe], Recipe]
"""The user's search space: suggests what it likes from the trial and returns the recipe with it put in."""
TRIALS = "trials"
REPORTS = 20
"""How many times a run reports its training loss to the pruner."""


@dataclass(frozen=True)
class Proxy:
    """What is tuned: one scheme at one scale. low, high: bounds of the learning rate, searched in its logarithm.

    seeds: a trial's value is the mean validation loss over them. pruning: "diverged" stops a trial whose run diverged
    only; "median" also one whose training loss is above the median of the others' at the same step.
    """

    scheme: str
    width: int | None
    depth: int | None
    low: float
    high: float
    seeds: tuple[int, ...]
    steps: int
    pruning: Pruning
    fingerprint: str

    def job(self, lr: float, seed: int) -> Job:
        """The job of one seed of a trial."""
        return Job(self.scheme, self.width, self.depth, lr, seed, self.steps, fingerprint=self.fingerprint)


@dataclass
class TuneWork:
    """Trains the trials of one proxy. new: how many trials the study is to have in all."""

    trainer: Trainer
    proxy: Proxy
    name: str
    new: int
    space: Space | None = None
    sampler: BaseSampler | None = None
    timeout: float | None = None
    pruner: optuna.pruners.BasePruner = field(default_factory=lambda: optuna.pruners.MedianPruner(n_warmup_steps=3))

    @property
    def device(self) -> str:
        """Where this work is done."""
        return self.trainer.device

    def open(self, url: str, *, wait: bool = False) -> TrialQueue:
        """The trials of this proxy's study. wait: see open_storage."""
        about = encode({"kind": "tune", "recipe": self.trainer.recipe.name, **asdict(self.proxy)})
        queue = open_queue(url, self.name, about, TPESampler(seed=0), wait=wait)
        queue.study.pruner = self.pruner
        if queue.study.user_attrs.get(TRIALS) != self.new:
            queue.study.set_user_attr(TRIALS, self.new)
        return queue

    def lanes(self, trial: Trial) -> int:
        """A trial is done by itself."""
        return 1

    def __call__(self, trials: Sequence[Trial]) -> list[list[Run]]:
        """The runs of each trial."""
        return [self._runs(trial) for trial in trials]

    def _runs(self, trial: Trial) -> list[Run]:
        """A run per seed, up to the first that diverges or is pruned.

        The sampler is seeded by the trial's number, so that no two workers, and no resumed one, draw the same.
        """
        seed = zlib.crc32(f"{self.name} {trial.number}".encode())
        trial.study.sampler = self.sampler or TPESampler(seed=seed)
        lr = trial.suggest_float("lr", self.proxy.low, self.proxy.high, log=True)
        try:
            trainer = self._trainer(trial)
        except (OptunaError, SQLAlchemyError):
            raise
        except Exception as error:
            return [failed(self.proxy.job(lr, self.proxy.seeds[0]), f"the search space raised {described(error)}")]
        runs: list[Run] = []
        for number, seed in enumerate(self.proxy.seeds):
            watch = self._pruning(trial) if number == 0 and self.proxy.pruning == "median" else None
            runs.append(trainer.run(self.proxy.job(lr, seed), watch))
            if runs[-1].state != "complete":
                break
        return runs

    def _trainer(self, trial: Trial) -> Trainer:
        """The trainer of the recipe that the user's space makes of this trial."""
        if self.space is None:
            return self.trainer
        recipe = self.space(trial, self.trainer.given)
        if not isinstance(recipe, Recipe):
            raise TypeError(f"it must return a Recipe, but returned {type(recipe).__name__}")
        return Trainer(recipe, device=self.trainer.device, plan_options=self.trainer.plan_options)

    def _pruning(self, trial: Trial) -> Callable[[int, float], None]:
        """An on_step that reports the mean loss of every twentieth of the run and stops what the pruner gives up."""
        every, losses = max(1, self.proxy.steps // REPORTS), []

        def on_step(step: int, loss: float) -> None:
            losses.append(loss)
            if (step + 1) % every == 0 and math.isfinite(loss):
                trial.report(math.fsum(losses[-every:]) / every, (step + 1) // every)
                if trial.should_prune():
                    raise Pruned(losses)

        return on_step


def transferred_guess(scheme: str, lr: float, *, narrow: int | None, wide: int | None) -> float:
    """The learning rate to try first at `wide`, from the best one at `narrow`.

    Under a scheme with a plan it is the same: that is what the plan is for. Under SP with one global rate the readout
    allows n^-1, for SGD and Adam alike (Yang & Hu 2021, 2011.14522, App. G; Everett et al. 2024, 2407.05872, Table 1,
    full alignment): the least of its layers' exponents binds.
    """
    return lr * narrow / wide if scheme == CONTROL and narrow and wide else lr
