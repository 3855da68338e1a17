"""One training run and its record: a line of runs.jsonl, appended whole or not at all."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from hptransfer.core.errors import UsageError
from hptransfer.core.files import Document
from hptransfer.core.training.scale import MIXTURE, Scale

RUNS_FILE = "runs.jsonl"
SCALE_AXES = tuple(field.name for field in fields(Scale))
State = Literal["complete", "diverged", "pruned", "failed"]
Key = str
"""Names one run: its scheme, scale, learning rate, seed, steps, further settings and recipe, in one line of text."""


def exact(value: float) -> str:
    """A number as text that no other number has; a whole one alike as int and float."""
    return str(int(value)) if float(value).is_integer() and int(value) == value else repr(value)


@dataclass(frozen=True)
class Job:
    """A run that is to be made: everything that decides its outcome, given the recipe.

    lr: the base learning rate, before the schedule and the plan's multipliers. seed: draws weights and data.
    settings: factors on further settings of the base, as Vector.text has them; "" where all are the recipe's own.
    """

    scheme: str
    width: int | None
    depth: int | None
    lr: float
    seed: int
    steps: int
    batch: float | None = None
    tokens: float | None = None
    fingerprint: str = ""
    settings: str = ""
    experts: int | None = None
    active: int | None = None
    expert_width: int | None = None

    @property
    def scale(self) -> Scale:
        """The scale it is trained at."""
        return Scale(**{axis: getattr(self, axis) for axis in SCALE_AXES})

    @property
    def key(self) -> Key:
        """What makes two runs the same run: every number to its last digit."""
        return _key(self)

    def __str__(self) -> str:
        named = {name: getattr(self, name) for name in ("depth", *MIXTURE)}
        depth = "".join(f" {name} {size}" for name, size in named.items() if size is not None)
        more = f" {self.settings}" if self.settings else ""
        return f"{self.scheme} width {self.width}{depth} lr {self.lr:.4g}{more} seed {self.seed}"


@functools.lru_cache(maxsize=1 << 16)  # planners ask for the same ones over and over
def _key(job: Job) -> Key:
    where = " ".join(f"{axis}={exact(value)}" for axis, value in job.scale.said.items())
    more = f" {job.settings}" if job.settings else ""
    how = f"lr={exact(job.lr)}{more} seed={job.seed} steps={job.steps} {job.fingerprint}"
    return f"{job.scheme} {where} {how}".strip()


@dataclass(frozen=True)
class Run(Document):
    """One training run; one line of runs.jsonl.

    val_loss, train_loss: in the recipe's own unit (nats for cross-entropy); inf where the run diverged or
    failed. curve: (step, training loss averaged since the previous point). seconds: wall time of the run.
    state: "complete", "diverged" (non-finite or run-away loss), "pruned" (stopped by the study's pruner) or
    "failed" (an exception, whose text is `error`). engine: "loop", or "lanes" where several runs were trained
    as one. plan: the fingerprint of the plan it was trained under, "" for none or where an earlier version did not say.
    settings: see Job.
    """

    TITLE = "a run"
    REMEDY = "Remove that line, or give another directory."

    scheme: str
    width: int | None
    depth: int | None
    lr: float
    seed: int
    steps: int
    val_loss: float
    train_loss: float
    curve: tuple[tuple[int, float], ...]
    diverged: bool
    seconds: float
    state: State
    error: str | None = None
    batch: float | None = None
    tokens: float | None = None
    fingerprint: str = ""
    engine: str = "loop"
    plan: str = ""
    settings: str = ""
    experts: int | None = None
    active: int | None = None
    expert_width: int | None = None

    @property
    def job(self) -> Job:
        """What was to be run."""
        return Job(**{name: getattr(self, name) for name in JOB_FIELDS})

    @property
    def key(self) -> Key:
        """What makes two runs the same run."""
        return self.job.key

    @property
    def finished(self) -> bool:
        """Whether a resumed sweep takes this run as done; a failed run is tried again."""
        return self.state != "failed"


JOB_FIELDS = tuple(field.name for field in fields(Job))


def read_runs(path: str | os.PathLike[str]) -> tuple[list[Run], list[str]]:
    """(runs in file order, notes) of a runs.jsonl; ([], []) where there is no such file.

    A last line cut off by a kill is left out and noted. Raises UsageError, naming file and line, on any other line
    that is not a run, and where the file cannot be read.
    """
    try:
        text = Path(path).read_bytes().decode()
    except FileNotFoundError:
        return [], []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    *lines, rest = text.split("\n")
    runs = [_numbered(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    note = f"{path}: its last line was cut off (a run killed while it was written) and is left out."
    return runs, [note] if rest else []


def _numbered(path: str | os.PathLike[str], number: int, line: str) -> Run:
    try:
        return Run.from_line(line)
    except UsageError as error:
        raise UsageError(f"{path}, line {number}: {error}") from error


def latest(runs: Iterable[Run]) -> dict[Key, Run]:
    """The last record of every run (a failed run may have been tried again), in order of first appearance."""
    return {run.key: run for run in runs}
