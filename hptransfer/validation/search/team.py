"""Several processes on one queue of trials: started, watched, replaced when they die, counted on a bar."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from hptransfer.core.errors import UsageError, bounded
from hptransfer.core.secrets import masked
from hptransfer.validation.engines.pool import process_context, started
from hptransfer.validation.records.runs import Run
from hptransfer.validation.search.queue import RUNS, TrialQueue, drain
from hptransfer.validation.search.storage import open_storage, quiet, release

POLL_SECONDS = 0.5
MAX_FRUITLESS = 3
"""Give up when this many workers died in a row without a single trial told in between."""


class Work(Protocol):
    """What a worker does with trials: opens the study it belongs to, and makes a trial's runs."""

    @property
    def device(self) -> str: ...

    @property
    def new(self) -> int: ...

    def open(self, url: str) -> TrialQueue: ...

    def __call__(self, trial: Trial) -> list[Run]: ...


def run_team(url: str, queue: TrialQueue, work: Work, *, workers: int, label: str) -> None:
    """Work on a study until no trial waits or runs, here or elsewhere. queue: its trials, open in this process.

    Raises UsageError where the database is lost, or workers die one after the other.
    """
    with lost_database(url), quiet():
        total = max(len(queue.trials()), work.new)
        with tqdm(total=total, desc=label, unit="trial", file=sys.stderr, disable=None, leave=False) as bar:
            if workers == 1:
                drain(queue, work, new=work.new, report=lambda _: bar.update())
            else:
                _supervise(url, work, queue, workers, lambda told: bar.update(told - bar.n))


def _supervise(url: str, work: Work, queue: TrialQueue, workers: int, show: Callable[[int], object]) -> None:
    context, fruitless, told = process_context(work.device), 0, _told(queue)
    queue.disconnect()
    team = [started(context, _serve, (url, work)) for _ in range(workers)]
    try:
        while team:
            time.sleep(POLL_SECONDS)
            queue.recover()
            now = _told(queue)
            show(now)
            gone = [process for process in team if not process.is_alive()]
            team = [process for process in team if process.is_alive()]
            died = [process for process in gone if process.exitcode]
            fruitless, told = (0 if now > told else fruitless) + len(died), max(told, now)
            if fruitless >= MAX_FRUITLESS:
                raise UsageError(
                    f"{fruitless} worker processes died in a row (the last with exit code {died[-1].exitcode}) without "
                    "a trial finished; finished trials are kept. Use workers=1 to see why."
                )
            if died:
                queue.disconnect()
                team += [started(context, _serve, (url, work)) for _ in died]
    finally:
        for process in team:
            process.terminate()
        for process in team:
            process.join()


def _serve(url: str, work: Work) -> None:
    queue = work.open(url)
    drain(queue, work, new=work.new)
    queue.disconnect()


def _told(queue: TrialQueue) -> int:
    return sum(RUNS in trial.user_attrs for trial in queue.trials())


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
