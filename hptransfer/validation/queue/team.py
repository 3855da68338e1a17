"""One process that hands out what a search wants, and the workers that do it: watched, and replaced when they die."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from hptransfer.core.errors import UsageError, bounded
from hptransfer.core.secrets import masked
from hptransfer.core.training.progress import progress
from hptransfer.validation.engines.process import death, ended, process_context, started
from hptransfer.validation.queue.drain import FIRST_PAUSE, Drain
from hptransfer.validation.queue.queue import Item, TrialQueue
from hptransfer.validation.queue.storage import open_storage, quiet, release
from hptransfer.validation.records.runs import Key, Run

AHEAD = 64
"""Trials that wait in the storage at a time, at least: reading those that wait costs the more the more there are."""
MAX_FRUITLESS = 3
"""Give up when this many workers died in a row without holding a trial."""


class Work(Protocol):
    """What a worker does with trials: opens the study they belong to, and makes the runs of those that are alike."""

    @property
    def device(self) -> str: ...

    @property
    def new(self) -> int: ...

    @property
    def timeout(self) -> float | None: ...

    def open(self, url: str, *, wait: bool = False) -> TrialQueue: ...

    def lanes(self, trial: Trial) -> int: ...

    def __call__(self, trials: Sequence[Trial]) -> Sequence[Sequence[Run]]: ...


Wanted = Callable[[], Sequence[Item]]
"""What is to be done now, the most urgent first; nothing where the search is over."""
Told = Callable[[Mapping[Key, Sequence[Run]]], object]
"""Takes the runs of the trials that were told, by key."""


def drain_of(queue: TrialQueue, work: Work, **choices: Any) -> Drain:
    """A process's way through the queue of some work."""
    return Drain(queue, work, new=work.new, lanes=work.lanes, timeout=work.timeout, **choices)


@dataclass
class Team:
    """Does what a search wants with `workers` processes of this machine, and with any that join from elsewhere.

    queue: the trials at `url`, open in this process. lost: makes the runs of a key whose process died every time, from
    how it died. total: trials the bar counts to, where it is known.
    """

    url: str
    queue: TrialQueue
    work: Work
    workers: int
    lost: Callable[[Key, str], Sequence[Run]] = lambda key, how: ()
    label: str = ""
    total: int | None = None
    processes: list[Any] = field(default_factory=list)
    died: dict[int, str] = field(default_factory=dict)
    given_up: set[Key] = field(default_factory=set)
    first: int = 0

    def run(self, wanted: Wanted, told: Told) -> None:
        """Go on until nothing is wanted, and no trial waits or runs here or elsewhere.

        Raises UsageError where the database is lost, or workers die one after the other.
        """
        with lost_database(self.url), quiet():
            self.first = len(self.queue.trials())
            with progress(label=self.label, total=self.total, unit="run") as bar:
                alone = self.workers == 1 and self.work.timeout is None  # a process that may be killed is not this one
                steps = self._alone(wanted) if alone else self._together(wanted)
                for runs in steps:
                    told(runs)
                    bar.update(len(runs))

    def _handed_out(self, wanted: Wanted) -> bool:
        """Enqueue what is wanted now; whether there is anything."""
        items = wanted()
        if items:
            self.queue.add(items[: max(AHEAD, 4 * self.workers)], since=self.first)
        return bool(items)

    def _news(self) -> Mapping[Key, Sequence[Run]]:
        """The runs told since this was last asked, those of trials given up among them."""
        lost = self.queue.lost(since=self.first, died=self.died)
        given_up = {key: self.lost(key, how) for key, how in lost.items() if key not in self.given_up}
        self.given_up |= set(given_up)
        return {**given_up, **self.queue.news()}

    def _is_over(self, wanted: Wanted, runs: Mapping[Key, Sequence[Run]]) -> bool:
        """Hand out what is wanted, where that may have changed; whether nothing is left, wanted, waiting or running.

        What is wanted follows from the runs there are, so it is worked out again only where some were told.
        """
        busy = self.queue.is_busy(new=self.work.new)
        more = self._handed_out(wanted) if runs or not busy else True
        return not more and not busy

    def _alone(self, wanted: Wanted) -> Iterator[Mapping[Key, Sequence[Run]]]:
        """Do everything in this process; what others do with the queue counts too."""
        drain, pause = drain_of(self.queue, self.work), FIRST_PAUSE
        while True:
            self.queue.look_after()
            runs = self._news()
            yield runs
            over = self._is_over(wanted, runs)
            if drain.one() is not None or runs:
                pause = FIRST_PAUSE
            elif over:
                return
            else:
                time.sleep(pause)
                pause = min(2 * pause, self.queue.pause)

    def _together(self, wanted: Wanted) -> Iterator[Mapping[Key, Sequence[Run]]]:
        """Hand out, and keep the workers alive."""
        self._handed_out(wanted)
        context, fruitless, pause = process_context(self.work.device), 0, FIRST_PAUSE
        self.queue.disconnect()
        self.processes = [self._start(context) for _ in range(self.workers)]
        try:
            while True:
                died = self._dead()
                self.died |= {process.pid: death(process.exitcode) for process in died}
                self.queue.look_after(self.died, now=bool(died))
                runs = self._news()
                yield runs
                fruitless = 0 if runs else fruitless + len(died)
                if fruitless >= MAX_FRUITLESS * self.workers:
                    raise UsageError(
                        f"{fruitless} worker processes died in a row (the last with {death(died[-1].exitcode)}) "
                        "without a trial finished; finished trials are kept. Use workers=1 to see why."
                    )
                if self._is_over(wanted, runs):
                    return
                if died:
                    self.queue.disconnect()
                    self.processes += [self._start(context) for _ in died]
                pause = FIRST_PAUSE if runs else min(2 * pause, self.queue.pause)
                time.sleep(pause)
        finally:
            ended(self.processes)
            self.processes = []

    def _start(self, context: Any) -> Any:
        return started(context, _serve, (self.url, self.work))

    def _dead(self) -> list[Any]:
        """The workers that ended, which none does by itself; they are taken off the list."""
        dead = [process for process in self.processes if not process.is_alive()]
        self.processes = [process for process in self.processes if process.is_alive()]
        return dead


def _serve(url: str, work: Work) -> None:
    """A worker's life: trial after trial until its parent ends it. Its parent has reached the storage before it."""
    drain_of(work.open(url, wait=True), work, patience=float("inf")).all()


@contextlib.contextmanager
def lost_database(url: str) -> Iterator[None]:
    """A database that goes away in the middle is one clear line; what was told is kept there."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ or error
        first = bounded(masked(str(getattr(cause, "orig", None) or cause)))
        release(open_storage(url))  # says what is wrong, where it cannot be reached at all
        raise UsageError(
            f"The storage failed: {first}. Finished trials are kept; run the same command again."
        ) from error
