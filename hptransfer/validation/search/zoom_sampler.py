"""The zoom as an Optuna sampler: for a study of one's own, without recipes, plans or workers of ours.

    study = optuna.create_study(sampler=ZoomSampler(seeds=3))
    study.optimize(objective, n_trials=60)         # objective: suggest_float("lr", 1e-4, 1, log=True),
                                                   #            suggest_int("seed", 0, 2)

It looks two octaves apart with the first seed, follows the best rate, runs half octaves around it with all seeds, and
stops the study when nothing is left to look at.
"""

# pyright: strict
from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale
from hptransfer.validation.grid import Grid, checked_seeds
from hptransfer.validation.records.runs import Job, Key, Run, State
from hptransfer.validation.search.planner import Cell
from hptransfer.validation.search.zoom import ZoomPlanner

CHOSEN_SEED = "hptransfer:seed"
ENDED: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class ZoomSampler(BaseSampler):
    """Chooses one learning rate, suggested on a log scale, and the seed beside it where one is suggested.

    lr, seed: what the objective calls them. seeds: a count or a list; 1 where the objective suggests no seed. others:
    the sampler of all other parameters (default: random). Several processes may share the study: what is wanted next
    follows from its trials alone. A pruned trial counts as a bad rate, a failed one as no knowledge.
    Raises UsageError where the rate's distribution is not logarithmic.
    """

    def __init__(
        self, *, lr: str = "lr", seed: str = "seed", seeds: int | Sequence[int] = 1, others: BaseSampler | None = None
    ) -> None:
        self.lr, self.seed, self.seeds = lr, seed, checked_seeds(seeds)
        self.others = others or RandomSampler(seed=0)

    def reseed_rng(self) -> None:
        """The zoom draws nothing; the other sampler does."""
        self.others.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """That of the other sampler, without the rate and the seed."""
        space = self.others.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in space.items() if name not in (self.lr, self.seed)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The other sampler's."""
        return self.others.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The rate, the seed that was chosen with it, or what the other sampler says."""
        if param_name == self.lr:
            return self._rate(study, trial, _logarithmic(self.lr, param_distribution))
        if param_name == self.seed:
            known = study._storage.get_trial(trial._trial_id).system_attrs  # pyright: ignore[reportPrivateUsage]
            return known.get(CHOSEN_SEED, self.seeds[0])
        return self.others.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """End the study where the search is over: nothing is wanted, and no trial runs that may change that."""
        self.others.after_trial(study, trial, state, values)
        distribution = trial.distributions.get(self.lr)
        if not isinstance(distribution, FloatDistribution):
            return
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        search = _Search(self, study, distribution)
        told = search.run(trial, ENDED.get(state, "failed"), values)
        runs = {**search.runs(trials), **({told.key: told} if told is not None else {})}
        if not search.planner.wanted(runs) and not any(t.state == TrialState.RUNNING for t in trials):
            with contextlib.suppress(RuntimeError):  # asked and told by hand: nobody to stop
                study.stop()

    def _rate(self, study: Study, trial: FrozenTrial, distribution: FloatDistribution) -> float:
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        search = _Search(self, study, distribution)
        runs = search.runs(trials)
        job = search.next(runs, trials)
        study._storage.set_trial_system_attr(  # pyright: ignore[reportPrivateUsage]
            trial._trial_id,  # pyright: ignore[reportPrivateUsage]
            CHOSEN_SEED,
            job.seed,
        )
        return min(max(job.lr, distribution.low), distribution.high)


class _Search:
    """The planner of one study's rates, and its trials as runs."""

    def __init__(self, sampler: ZoomSampler, study: Study, distribution: FloatDistribution) -> None:
        self.sampler, self.sign = sampler, 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        grid = Grid(("study",), (Scale(),), (distribution.low, distribution.high), sampler.seeds, 1)
        self.planner = ZoomPlanner(grid, "", extend=0.0)
        self.cell = Cell(grid, "study", Scale(), "")

    def job(self, trial: FrozenTrial) -> Job | None:
        """The rate and seed of a trial; None where it has none yet."""
        lr = trial.params.get(self.sampler.lr)
        seed = trial.params.get(self.sampler.seed, trial.system_attrs.get(CHOSEN_SEED, self.sampler.seeds[0]))
        return None if lr is None else self.cell.job(float(f"{lr:.12g}"), int(seed))

    def run(self, trial: FrozenTrial, state: State, values: Sequence[float] | None) -> Run | None:
        """A trial as the run that the planner reads."""
        job = self.job(trial)
        if job is None:
            return None
        loss = self.sign * values[0] if values and state == "complete" else math.inf
        return Run(**vars(job), val_loss=loss, train_loss=loss, curve=(), diverged=False, seconds=0.0, state=state)

    def runs(self, trials: Sequence[FrozenTrial]) -> dict[Key, Run]:
        """All ended trials with a rate, by key; the last one counts."""
        ended = [self.run(t, ENDED[t.state], t.values) for t in trials if t.state in ENDED]
        return {run.key: run for run in ended if run is not None}

    def next(self, runs: dict[Key, Run], trials: Sequence[FrozenTrial]) -> Job:
        """What is wanted and runs nowhere yet; else the rate nearest to the best that was not run with a seed."""
        running = {job.key for t in trials if t.state == TrialState.RUNNING and (job := self.job(t)) is not None}
        wanted = [job for job in self.planner.wanted(runs) if job.key not in running]
        if wanted:
            return wanted[0]
        first, last = self.planner.bounds
        lattice = [
            self.cell.job(self.planner.rate(step), s) for s in self.sampler.seeds for step in range(first, last + 1)
        ]
        best = min(runs.values(), key=lambda run: run.val_loss, default=None)
        centre = math.log2(best.lr if best is not None else math.sqrt(lattice[0].lr * lattice[-1].lr))
        fresh = [job for job in lattice if job.key not in runs and job.key not in running]
        return min(fresh or lattice, key=lambda job: abs(math.log2(job.lr) - centre))


def _logarithmic(name: str, distribution: BaseDistribution) -> FloatDistribution:
    if not (isinstance(distribution, FloatDistribution) and distribution.log):
        raise UsageError(
            f"{name!r} must be suggested on a log scale: trial.suggest_float({name!r}, LOW, HIGH, log=True)."
        )
    return distribution
