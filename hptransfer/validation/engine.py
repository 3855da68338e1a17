"""Which engine makes the runs: one at a time, or many as lanes of one; measured where it is not obvious."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hptransfer.validation.pool import Engine, Task, loop_engine
from hptransfer.validation.runs import Job
from hptransfer.validation.trainer import Trainer

EngineName = Literal["auto", "loop", "lanes"]


@dataclass(frozen=True)
class Made:
    """The work of a sweep cut into tasks, the engine that does a task, and what is to be said about the choice."""

    tasks: list[Task]
    engine: Engine
    notes: tuple[str, ...] = ()


def plan_tasks(trainer: Trainer, jobs: Sequence[Job], *, engine: EngineName, workers: int) -> Made:
    return Made([(job,) for job in jobs], loop_engine)
