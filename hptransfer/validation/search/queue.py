"""Runs as Optuna trials: asked for, held by one process, told once; those of dead processes are asked for again."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from hptransfer.validation.records.runs import Key, Run
from hptransfer.validation.search.lease import BEAT, HOLDER, Watch, heartbeat, hold
from hptransfer.validation.search.storage import quiet, release

KEY, RUNS, RETRY = "key", "runs", "retry"
OPEN = (TrialState.WAITING, TrialState.RUNNING)
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
RECOVER_SECONDS = 2.0
MAX_DEATHS = 3
"""A trial whose process died this often is given up as failed."""


class TrialQueue:
    """The trials of one Optuna study, each with a key; a key is run once, whoever asks.

    A trial carries: its key; who holds it; its runs as lines of JSON, written before it is told, so that a process
    killed in between loses nothing.
    """

    def __init__(self, study: optuna.Study, storage: RDBStorage, watch: Watch | None = None) -> None:
        self.study, self.storage, self.watch = study, storage, watch or Watch()

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials as they are now."""
        return self.study.get_trials(deepcopy=False, states=states)

    def add(self, wanted: Iterable[tuple[Key, Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Enqueue every (key, params, attributes) that is not waiting, running or done; failed ones once more."""
        taken = {t.user_attrs.get(KEY) for t in self.trials((*OPEN, *DONE))}
        for key, params, attributes in wanted:
            if key not in taken:
                self.study.enqueue_trial(dict(params), user_attrs={**attributes, KEY: key})

    def claim(self, *, new: int = 0) -> Trial | None:
        """A trial that is now this process's own, or None where there is none to take.

        new: how many keys the study may have in all; while there are fewer, the sampler proposes further ones.
        """
        while True:
            trials = self.trials()
            waiting = next((t for t in trials if t.state == TrialState.WAITING), None)
            if waiting is None:
                return self._propose(new) if len(_live(trials)) < new else None
            if not self._take(waiting):
                continue  # another process was quicker: look again
            trial = Trial(self.study, waiting._trial_id)
            hold(trial)
            if not _is_done_elsewhere(waiting, trials):
                return trial
            self.study.tell(trial, state=TrialState.FAIL)

    def _take(self, waiting: FrozenTrial) -> bool:
        """Turn a waiting trial into a running one; False where another process has done so, which is atomic."""
        with contextlib.suppress(UpdateFinishedTrialError):
            return self.storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
        return False

    def _propose(self, new: int) -> Trial | None:
        """A further trial from the sampler; None where other processes have proposed enough meanwhile."""
        trial = self.study.ask()
        hold(trial)
        if KEY not in trial.user_attrs:  # else it was enqueued a moment ago
            trial.set_user_attr(KEY, f"trial {trial.number}")
        first = _live(reversed(self.trials()))
        if sorted(first.values()).index(first[trial.user_attrs[KEY]]) < new:
            return trial
        self.study.tell(trial, state=TrialState.FAIL)
        return None

    def work(self, trial: Trial, do: Callable[[Trial], list[Run]]) -> list[Run]:
        """Make a claimed trial's runs, renewing the claim meanwhile, and tell the outcome."""
        with heartbeat(trial):
            runs = do(trial)
        with contextlib.suppress(UpdateFinishedTrialError):  # taken for dead and asked for again: theirs will count
            trial.set_user_attr(RUNS, [run.to_line() for run in runs])
            self._tell(trial.number, runs)
        return runs

    def recover(self) -> None:
        """Settle the running trials whose process is gone: tell those that had finished, ask again for the others."""
        for trial in self.trials((TrialState.RUNNING,)):
            if self.watch.is_stale(trial):
                with contextlib.suppress(OptunaError, ValueError):  # another process settled it first
                    self._settle(trial)

    def _settle(self, trial: FrozenTrial) -> None:
        attributes = {k: v for k, v in trial.user_attrs.items() if k not in (HOLDER, BEAT)}
        if RUNS in attributes:
            self._tell(trial.number, runs_of(trial))
            return
        self.study.tell(trial.number, state=TrialState.FAIL)  # only one process gets past this line
        deaths = int(attributes.get(RETRY, 0)) + 1
        if KEY in attributes and deaths < MAX_DEATHS:
            params = trial.system_attrs.get("fixed_params", trial.params)
            self.study.enqueue_trial(dict(params), user_attrs={**attributes, RETRY: deaths})

    def _tell(self, number: int, runs: Sequence[Run]) -> None:
        states = {run.state for run in runs}
        if "failed" in states or not runs:
            self.study.tell(number, state=TrialState.FAIL)
        elif states == {"complete"}:
            self.study.tell(number, math.fsum(run.val_loss for run in runs) / len(runs))
        else:
            self.study.tell(number, state=TrialState.PRUNED)

    def runs(self) -> dict[Key, list[Run]]:
        """The runs of every told trial by its key; the last told counts."""
        told = sorted((t for t in self.trials() if t.state.is_finished() and RUNS in t.user_attrs), key=_told)
        return {t.user_attrs[KEY]: runs_of(t) for t in told}

    def disconnect(self) -> None:
        """Close this process's connections, which a forked process must not share; they open again when needed."""
        release(self.storage)

    def is_busy(self) -> bool:
        """Whether a trial waits or runs."""
        return bool(self.trials(OPEN))


def drain(
    queue: TrialQueue,
    do: Callable[[Trial], list[Run]],
    *,
    new: int = 0,
    patience: float = 0.0,
    limit: int | None = None,
    report: Callable[[list[Run]], object] | None = None,
) -> int:
    """Work on trials until none is left and none is running elsewhere (whose process might yet die).

    patience: seconds to wait for further trials after that. limit: stop after so many. Returns how many were done.
    """
    done, idle_since, recovered = 0, time.monotonic(), -math.inf
    while limit is None or done < limit:
        with quiet():
            if time.monotonic() - recovered > RECOVER_SECONDS:
                queue.recover()
                recovered = time.monotonic()
            trial = queue.claim(new=new)
            if trial is not None:
                runs = queue.work(trial, do)
                done, idle_since = done + 1, time.monotonic()
                if report is not None:
                    report(runs)
            elif queue.is_busy():
                time.sleep(0.2)
                recovered = -math.inf
            elif time.monotonic() - idle_since >= patience:
                break
            else:
                time.sleep(min(0.5, patience))
    return done


def runs_of(trial: FrozenTrial) -> list[Run]:
    """The runs a trial carries."""
    return [Run.from_line(line) for line in trial.user_attrs.get(RUNS, [])]


def _is_done_elsewhere(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether another trial with the key of this one, which was the first that waited, is done or running.

    Two processes that enqueue the same grid at the same moment may both enqueue a key. `trials` is as of before this
    one was taken: a twin with a lower number that still waited then would have been taken instead.
    """
    twins = [t for t in trials if t.user_attrs.get(KEY) == trial.user_attrs.get(KEY) and t.number != trial.number]
    return any(t.state in (*DONE, TrialState.RUNNING) for t in twins)


def _live(trials: Iterable[FrozenTrial]) -> dict[Key, int]:
    """Keys that wait, run, are done or failed with an error of their own (not lost), and their last trial listed."""
    return {
        t.user_attrs.get(KEY, f"trial {t.number}"): t.number
        for t in trials
        if t.state in (*OPEN, *DONE) or RUNS in t.user_attrs
    }


def _told(trial: FrozenTrial) -> tuple[Any, int]:
    return trial.datetime_complete, trial.number
