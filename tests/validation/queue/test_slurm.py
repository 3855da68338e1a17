"""Workers elsewhere: the Slurm script, runs that take too long, and a check that stops when it knows enough."""

from __future__ import annotations

import shlex
import subprocess
import time

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.validation.queue.slurm import sbatch_script
from hptransfer.validation.sweep import run_sweep
from hptransfer.validation.transfer import transfer_check
from tests.cases import validation as cases
from tests.cases.validation import recipe


def test_the_script_is_bash_and_runs_the_worker_that_joins(tmp_path):
    url = f"journal:///{tmp_path}/a b/trials"
    script = sbatch_script("my recipes/a.py:x", 7, storage=url, device="cpu")
    assert "#SBATCH --array=1-7\n" in script and "gpus" not in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    words = shlex.split(script.splitlines()[-1])
    assert words[2:6] == ["-m", "hptransfer.cli", "worker", "my recipes/a.py:x"] and words[7] == url
    assert "#SBATCH --gpus-per-task=1" in sbatch_script("a.py", 1, storage=url, device="cuda")


@pytest.mark.parametrize(
    ("tasks", "storage", "message"),
    [
        (0, "journal:////tmp/x", "at least 1"),
        (2, None, "needs --storage"),
        (2, "sqlite:////tmp/x.db", "SQLite is for one machine"),
        (2, "postgresql://me:secret@host/db", "no password"),
        (2, "nonsense", "not a database URL"),
    ],
)
def test_a_script_that_could_not_work_is_refused(tasks, storage, message):
    with pytest.raises(UsageError, match=message) as caught:
        sbatch_script("a.py", tasks, storage=storage)
    assert "secret" not in str(caught.value)


def test_a_run_that_takes_too_long_is_killed_once_and_counts_as_failed():
    def loss(model, batch):
        if model[0].out_features == 16:
            time.sleep(1000)
        return cases.loss(model, batch)

    slow = recipe.replace(loss=loss, widths=(8, 16), lrs=(2**-6,), seeds=1, steps=3)
    runs = run_sweep(slow, schemes=["sp"], workers=1, timeout=20.0)
    assert [run.state for run in runs] == ["complete", "failed"]
    assert "did not end within 20 s" in (runs[1].error or "")


def test_seeds_are_added_until_the_drift_is_known_well_enough():
    many = recipe.replace(widths=(8, 16), seeds=6)
    whole = transfer_check(many, workers=1, against=None)
    wide = (whole.drifts[0].high - whole.drifts[0].low) / 2
    early = transfer_check(many, workers=1, against=None, precision=20.0)
    assert len(early.seeds) == 3 and len(early.runs) < len(whole.runs)
    never = transfer_check(many, workers=1, against=None, precision=wide * 1e-3)
    assert never.seeds == whole.seeds and abs(never.drifts[0].octaves - whole.drifts[0].octaves) < wide


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": 0.0}, "precision=0.0"),
        ({"precision": float("nan")}, "precision=nan"),
        ({"timeout": -1.0}, "timeout=-1.0"),
        ({"sampler": "random"}, "use one of zoom, grid, tpe, gp"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        transfer_check(recipe, workers=1, **options)
