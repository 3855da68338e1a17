"""Schedules leaving the library: a torch scheduler, Python code to paste, a CSV file (and back from one)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR

from hptransfer.core.files import write_whole
from hptransfer.prediction.schedules.schedule import Schedule, from_array
from hptransfer.prediction.table import read_columns


def as_lambda_lr(schedule: Schedule, optimizer: torch.optim.Optimizer, *, last_epoch: int = -1) -> LambdaLR:
    """A torch scheduler to `step()` after every optimizer step.

    Every parameter group keeps its own initial learning rate and is multiplied by the same factor, so a plan's
    per-parameter multipliers survive. last_epoch: steps already done when resuming (-1: none).
    """
    return LambdaLR(optimizer, schedule.at, last_epoch=last_epoch)


def as_torch_code(schedule: Schedule) -> str:
    """Python source that needs only torch: `factor(step)` and `make_scheduler(optimizer)`."""
    body = "\n".join("    " + line for line in schedule.lines)
    return f'''import math

from torch.optim.lr_scheduler import LambdaLR


def factor(step):
    """{schedule.name}, {schedule.steps} steps: what multiplies each group's initial learning rate."""
    step = min(max(step, 0), {schedule.steps - 1})
{body}


def make_scheduler(optimizer, last_epoch=-1):
    """Call scheduler.step() after every optimizer.step(); groups with their own lr keep their ratios."""
    return LambdaLR(optimizer, factor, last_epoch=last_epoch)
'''


def write_csv(schedule: Schedule, path: str | Path, *, lr: float = 1.0) -> Path:
    """One row per step: step, factor, lr (= factor times `lr`). Returns the path."""
    rows = ((str(t), repr(f), repr(f * lr)) for t, f in enumerate(schedule.factors.tolist()))
    return write_whole(path, "".join(",".join(row) + "\n" for row in (("step", "factor", "lr"), *rows)))


def read_csv(path: str | Path, *, column: str = "factor") -> Schedule:
    """The schedule in a CSV file's `column`, one row per step in order.

    Raises UsageError where the file cannot be read, lacks the column, or holds anything but numbers >= 0.
    """
    return from_array(read_columns(path, {"factor": column})["factor"], name=Path(path).stem)
