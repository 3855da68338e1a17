"""Runs as Optuna trials: asked for, held by one process, told once; those of dead processes are asked for again."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from hptransfer.validation.queue.lease import BEAT, DIED, HOLDER, MAX_DEATHS, RETRY, Watch, heartbeat, hold
from hptransfer.validation.queue.storage import release
from hptransfer.validation.records.runs import Key, Run

KEY, RUNS, KIND = "key", "runs", "kind"
OPEN = (TrialState.WAITING, TrialState.RUNNING)
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
RECOVER_SECONDS = 2.0
"""How often the trials of dead processes are looked for."""

Do = Callable[[Sequence[Trial]], Sequence[Sequence[Run]]]
"""Makes the runs of trials that are alike: for each its runs."""


@dataclass(frozen=True)
class Item:
    """A trial that is wanted. kind: trials of the same kind may be done as one. params, with their distributions, are
    fixed; where they have none yet they are what the sampler will be asked to suggest.
    """

    key: Key
    params: Mapping[str, Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, BaseDistribution] = field(default_factory=dict)
    kind: str = ""


class TrialQueue:
    """The trials of one Optuna study, each with a key; a key is run once, whoever asks.

    A trial carries: its key; who holds it; its runs as lines of JSON, written before it is told, so that a process
    killed in between loses nothing.
    """

    def __init__(self, study: optuna.Study, storage: BaseStorage, watch: Watch | None = None) -> None:
        self.study, self.storage, self.watch = study, storage, watch or Watch()
        self._waiting: deque[FrozenTrial] = deque()
        self._read: set[int] = set()
        self._recovered = -math.inf

    @property
    def pause(self) -> float:
        """Seconds after which it is no burden to look again: a file is at hand, a server has other clients."""
        return 0.1 if isinstance(self.storage, JournalStorage) else 0.5

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials as they are now."""
        return self.study.get_trials(deepcopy=False, states=tuple(states) if states else None)

    def add(self, items: Iterable[Item], *, since: int | None = None) -> None:
        """Enqueue every item whose key is not waiting, running or done; failed ones once more.

        since: trials from this number on whose own run failed are done, too: whoever asks may not know of it yet.
        """
        trials = self.trials()
        taken = {t.user_attrs.get(KEY) for t in trials if t.state in (*OPEN, *DONE)}
        if since is not None:
            taken |= {t.user_attrs.get(KEY) for t in trials if t.number >= since and RUNS in t.user_attrs}
        for item in items:
            if item.key not in taken:
                attributes = {**item.attributes, KEY: item.key, KIND: item.kind}
                self._enqueue(item.params, item.distributions, attributes)

    def _enqueue(
        self, params: Mapping[str, Any], spaces: Mapping[str, BaseDistribution], attributes: Mapping[str, Any]
    ) -> None:
        """A trial that waits; parameters without a distribution are what the sampler will be asked to suggest."""
        if not spaces:
            self.study.enqueue_trial(dict(params), user_attrs=dict(attributes))
            return
        known = {"params": dict(params), "distributions": dict(spaces), "user_attrs": dict(attributes)}
        self.study.add_trial(create_trial(state=TrialState.WAITING, **known))

    def withdraw(self) -> None:
        """Tell every trial that still waits as failed: those of an earlier search that wanted other ones."""
        for trial in self.trials((TrialState.WAITING,)):
            if self._take(trial):
                self.study.tell(trial.number, state=TrialState.FAIL)

    def claim(self, *, new: int = 0) -> Trial | None:
        """A trial that is now this process's own, or None where there is none to take.

        new: how many keys the study may have in all; while there are fewer, the sampler proposes further ones.
        """
        while True:
            while self._waiting:
                if self._take(waiting := self._waiting.popleft()):
                    return self._held(waiting)
            trials = self.trials()
            self._waiting = deque(self._undoubled(trials))
            if not self._waiting:
                return self._propose(new) if len(_live(trials)) < new else None

    def alike(self, trial: Trial, count: int) -> list[Trial]:
        """Up to `count` further trials of the same kind, now this process's own."""
        kind, claimed = trial.user_attrs.get(KIND), []
        for waiting in [t for t in self._waiting if t.user_attrs.get(KIND) == kind]:
            if len(claimed) == count:
                break
            self._waiting.remove(waiting)
            if self._take(waiting):
                claimed.append(self._held(waiting))
        return claimed

    def _held(self, waiting: FrozenTrial) -> Trial:
        trial = Trial(self.study, waiting._trial_id)
        hold(trial)
        return trial

    def _take(self, waiting: FrozenTrial) -> bool:
        """Turn a waiting trial into a running one; False where another process has done so, which is atomic."""
        with contextlib.suppress(UpdateFinishedTrialError):
            return self.storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
        return False

    def _undoubled(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that wait. Of those that are enqueued twice, by two processes at once, all but one are told off.

        A retry gives way to no trial with fewer deaths: that one's process is gone.
        """
        rivals: dict[Key, list[FrozenTrial]] = {}
        for trial in trials:
            if trial.state in (*OPEN, *DONE):
                rivals.setdefault(trial.user_attrs.get(KEY, str(trial.number)), []).append(trial)
        kept = []
        for trial in (t for same in rivals.values() for t in same if t.state == TrialState.WAITING):
            same = rivals[trial.user_attrs.get(KEY, str(trial.number))]
            if not any(_goes_before(other, trial) for other in same):
                kept.append(trial)
            elif self._take(trial):
                self.study.tell(trial.number, state=TrialState.FAIL)
        return sorted(kept, key=lambda t: (-_deaths(t), t.number))

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

    def work(self, trials: Sequence[Trial], do: Do, *, timeout: float | None = None) -> list[Run]:
        """Make the runs of claimed trials, renewing the claims meanwhile, and tell the outcomes."""
        with heartbeat(trials, timeout=timeout):
            results = do(trials)
        for trial, runs in zip(trials, results, strict=True):
            with contextlib.suppress(UpdateFinishedTrialError):  # taken for dead and asked for again: theirs will count
                trial.set_user_attr(RUNS, [run.to_line() for run in runs])
                self._tell(trial.number, runs)
        return [run for runs in results for run in runs]

    def look_after(self, died: Mapping[int, str] | None = None, *, now: bool = False) -> None:
        """Recover every RECOVER_SECONDS, however often this is called, and where it is asked for now."""
        if now or time.monotonic() - self._recovered > RECOVER_SECONDS:
            self.recover(died)
            self._recovered = time.monotonic()

    def recover(self, died: Mapping[int, str] | None = None) -> None:
        """Settle the running trials whose process is gone: tell those that had finished, ask again for the others.

        died: process id -> how it ended, of this process's own children.
        """
        for trial in self.trials((TrialState.RUNNING,)):
            if self.watch.is_stale(trial):
                held = trial.user_attrs.get(HOLDER)
                how = (died or {}).get(int(held["pid"]), "") if isinstance(held, dict) else ""
                with contextlib.suppress(OptunaError, ValueError):  # another process settled it first
                    self._settle(trial, how)

    def _settle(self, trial: FrozenTrial, how: str) -> None:
        """Ask for a lost trial again, then tell it as failed: whoever dies in between leaves both to be settled."""
        if RUNS in trial.user_attrs:
            self._tell(trial.number, runs_of(trial))
            return
        attributes = {k: v for k, v in trial.user_attrs.items() if k not in (HOLDER, BEAT, DIED)}
        deaths = _deaths(trial) + 1
        again = any(
            t.user_attrs.get(KEY) == attributes.get(KEY) and _deaths(t) >= deaths for t in self.trials((*OPEN, *DONE))
        )
        if KEY in attributes and deaths < MAX_DEATHS and not again:
            params = trial.system_attrs.get("fixed_params")  # what it was enqueued with, where nothing is suggested yet
            spaces = trial.distributions if params is None else {}
            self._enqueue(trial.params if params is None else params, spaces, {**attributes, RETRY: deaths})
        if how and DIED not in trial.user_attrs:
            self.storage.set_trial_user_attr(trial._trial_id, DIED, _LAST.format(how))
        self.study.tell(trial.number, state=TrialState.FAIL)

    def lost(self, *, since: int = 0, died: Mapping[int, str] | None = None) -> dict[Key, str]:
        """The keys whose process died each of MAX_DEATHS times, and how at the last.

        since: a trial's number. died: as in recover; a trial may have been settled by a process that did not know.
        """
        failed = [t for t in self.trials((TrialState.FAIL,)) if t.number >= since and RUNS not in t.user_attrs]
        gone = [t for t in failed if _deaths(t) >= MAX_DEATHS - 1]
        return {t.user_attrs[KEY]: _death(t, died or {}) for t in gone}

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

    def news(self) -> dict[Key, list[Run]]:
        """The runs of the trials told since this was last asked."""
        fresh = [t for t in self.trials() if t.number not in self._read and t.state.is_finished()]
        self._read |= {t.number for t in fresh}
        return {t.user_attrs[KEY]: runs_of(t) for t in sorted(fresh, key=_told) if RUNS in t.user_attrs}

    def disconnect(self) -> None:
        """Close this process's connections, which a forked process must not share; they open again when needed."""
        release(self.storage)

    def is_busy(self, *, new: int = 0) -> bool:
        """Whether a trial waits or runs, or the sampler is still to propose one. new: see claim."""
        trials = self.trials()
        return any(t.state in OPEN for t in trials) or len(_live(trials)) < new


def runs_of(trial: FrozenTrial) -> list[Run]:
    """The runs a trial carries."""
    return [Run.from_line(line) for line in trial.user_attrs.get(RUNS, [])]


def _deaths(trial: FrozenTrial) -> int:
    """How many processes had died at a trial's key when it was enqueued."""
    return int(trial.user_attrs.get(RETRY, 0))


_LAST = "died each time, at last with {}"


def _death(trial: FrozenTrial, died: Mapping[int, str]) -> str:
    """How the process of a lost trial ended, as far as it is known."""
    held = trial.user_attrs.get(HOLDER)
    how = died.get(int(held["pid"])) if isinstance(held, dict) else None
    return trial.user_attrs.get(DIED, _LAST.format(how) if how else "died each time")


def _goes_before(other: FrozenTrial, trial: FrozenTrial) -> bool:
    """Whether a waiting trial is not needed because of another with its key."""
    if other.number == trial.number:
        return False
    if other.state in DONE:
        return True
    return (-_deaths(other), other.number) < (-_deaths(trial), trial.number)


def _live(trials: Iterable[FrozenTrial]) -> dict[Key, int]:
    """Keys that wait, run, are done or failed with an error of their own (not lost), and their last trial listed."""
    return {
        t.user_attrs.get(KEY, f"trial {t.number}"): t.number
        for t in trials
        if t.state in (*OPEN, *DONE) or RUNS in t.user_attrs
    }


def _told(trial: FrozenTrial) -> tuple[Any, int]:
    return trial.datetime_complete, trial.number
