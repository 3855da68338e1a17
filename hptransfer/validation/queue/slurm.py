"""The Slurm script whose tasks join a check: each is a worker that takes trials from its storage."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from hptransfer.core.errors import UsageError
from hptransfer.core.secrets import masked
from hptransfer.validation.queue.storage import open_storage, release

SCRIPT = """#!/bin/bash
#SBATCH --job-name=hptransfer
#SBATCH --array=1-{tasks}
#SBATCH --cpus-per-task=1
{accelerator}#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=hptransfer-%A-%a.log
# Submit this with sbatch, and run the check itself, with the same --storage, on a machine that stays up: it hands out
# the runs and judges them. A task may be killed or requeued at any time; its run is then asked for again.
set -eu
cd {directory}
exec {python} -m hptransfer.cli worker {recipe} --storage {storage} --device {device} --patience 600
"""


def sbatch_script(recipe: str, tasks: int, *, storage: str | None, device: str = "auto") -> str:
    """A script for sbatch.

    recipe: FILE.py[:name]; tasks: how many workers; storage: the URL that the check is given, which every machine must
    reach. Raises UsageError where there is no storage or it is one that only this machine sees, or tasks < 1.
    """
    if tasks < 1:
        raise UsageError(f"--print-sbatch {tasks}: give the number of tasks, at least 1.")
    if not storage:
        raise UsageError(
            "--print-sbatch needs --storage, which all machines can reach: postgresql://USER@HOST/NAME, "
            "grpc://HOST:PORT, or journal:///FILE on a shared file system."
        )
    if storage.startswith("sqlite:"):
        raise UsageError(
            f"--storage {storage}: SQLite is for one machine. Use journal:///FILE on a shared file system."
        )
    if masked(storage) != storage:
        raise UsageError(
            "--print-sbatch writes no password into a script: leave it out of --storage and put it into ~/.pgpass, "
            "which PostgreSQL's clients read."
        )
    release(open_storage(storage))
    accelerator = "" if device == "cpu" else "#SBATCH --gpus-per-task=1\n"
    quoted = {"directory": str(Path.cwd()), "python": sys.executable, "recipe": recipe, "storage": storage}
    parts = {name: shlex.quote(text) for name, text in quoted.items()}
    return SCRIPT.format(tasks=tasks, accelerator=accelerator, device=shlex.quote(device), **parts)
