"""How one process works through a queue of trials."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from optuna.trial import Trial

from hptransfer.validation.queue.queue import Do, TrialQueue
from hptransfer.validation.queue.storage import quiet
from hptransfer.validation.records.runs import Run

FIRST_PAUSE = 0.01
"""Seconds until a process that waits for trials looks again, doubled up to the queue's own pause."""


@dataclass
class Drain:
    """How one process works through a queue.

    new: see TrialQueue.claim. lanes: how many trials like the first may be done as one. patience: seconds to wait for
    further trials when none waits or runs. limit: stop after so many. timeout: seconds a task may take.
    """

    queue: TrialQueue
    do: Do
    new: int = 0
    lanes: Callable[[Trial], int] = lambda trial: 1
    patience: float = 0.0
    limit: float = math.inf
    timeout: float | None = None

    def one(self) -> list[Run] | None:
        """The runs of the next task; None where there is none to take."""
        trial = self.queue.claim(new=self.new)
        if trial is None:
            return None
        trials = [trial]
        if (lanes := self.lanes(trial)) > 1:
            trials += self.queue.alike(trial, lanes - 1)
        return self.queue.work(trials, self.do, timeout=self.timeout)

    def all(self) -> int:
        """Work until nothing waits and nothing runs elsewhere (whose process might yet die); how many tasks it did."""
        done, idle_since, pause = 0, time.monotonic(), FIRST_PAUSE
        while done < self.limit:
            with quiet():
                self.queue.look_after()
                if self.one() is not None:
                    done, idle_since, pause = done + 1, time.monotonic(), FIRST_PAUSE
                    continue
                if self.queue.is_busy():
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since >= self.patience:
                    break
            time.sleep(pause)
            pause = min(2 * pause, self.queue.pause)
        return done
