"""Exit codes are the verdict's: no recipe, closed pipe or closed stdout turns a failure into 0."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hptransfer.cli import main

ROOT = Path(__file__).parents[2]
BODY = """
    import os, sys
    from tests.cases.validation import *
    from tests.cases import validation as cases

    {before}

    def loss(model, batch):
        {inside}
        return cases.loss(model, batch)

    recipe = cases.recipe.replace(loss=loss, widths=(8, 16), lrs=tuple(2.0**k for k in range(-8, -4)), steps=4, seeds=1)
"""
CHECK = ["--no-coord", "--extend", "0"]


def recipe_file(tmp_path: Path, *, before: str = "pass", inside: str = "pass") -> str:
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(BODY.format(before=before, inside=inside)))
    return str(path)


def command(*args: str, **options) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    given = {"capture_output": True, "text": True, "timeout": 120, "env": environment, **options}
    return subprocess.run([sys.executable, "-m", "hptransfer.cli", *args], **given)


@pytest.mark.parametrize(
    ("where", "code"),
    [
        ({"before": "sys.exit(0)"}, 2),
        ({"before": "os._exit(0)"}, 2),
        ({"inside": "os._exit(0)"}, 2),
        ({"inside": "sys.exit(0)"}, 2),
    ],
)
def test_a_recipe_cannot_end_a_check_with_success(tmp_path, where, code):
    done = command("check", recipe_file(tmp_path, **where), *CHECK, "--workers", "1", "--out", str(tmp_path / "out"))
    assert done.returncode == code and "Traceback" not in done.stderr and done.stderr.strip()


def test_workers_that_a_recipe_ends_leave_failed_runs_and_a_verdict(tmp_path):
    inside = "os._exit(0) if model[0].out_features == 16 else None"
    path = recipe_file(tmp_path, inside=inside)
    done = command("check", path, *CHECK, "--workers", "2", "--out", str(tmp_path / "out"))
    assert done.returncode == 3 and "runs failed, first error: " in done.stdout, done.stderr
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["verdict"] == "INCONCLUSIVE"


def test_a_closed_pipe_leaves_the_verdicts_exit_code_and_its_files(tmp_path):
    path, out = recipe_file(tmp_path), tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "hptransfer.cli", "check", path, *CHECK, "--workers", "1", "--out", str(out)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(120) == 3
    assert (out / "report.html").exists() and (out / "verdict.json").exists()


def test_a_stdout_that_is_closed_from_the_start_is_never_a_success(tmp_path):
    path = recipe_file(tmp_path)
    shell = f"{sys.executable} -m hptransfer.cli plan {path} >&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == 2 and "stdout is closed" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stdout_that_is_full_is_said(tmp_path):
    with open("/dev/full", "w") as full:
        done = command("plan", recipe_file(tmp_path), capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and "No space left" in done.stderr


def test_what_a_recipe_prints_does_not_break_json(tmp_path):
    """Python's print, the file descriptor, a child process, and the workers' prints."""
    before = "print('loaded'); os.write(1, b'raw'); os.system('echo child')"
    path = recipe_file(tmp_path, before=before, inside="print('a step')")
    for workers in ("1", "2"):
        done = command("check", path, *CHECK, "--json", "--workers", workers, "--out", str(tmp_path / workers))
        assert json.loads(done.stdout)["verdict"] == "INCONCLUSIVE" and done.returncode == 3
        assert "loaded" in done.stderr and "raw" in done.stderr and "child" in done.stderr and "a step" in done.stderr


def test_in_this_process_too_results_alone_are_printed(tmp_path, capsys):
    assert main(["plan", recipe_file(tmp_path, before="print('loaded')"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["scheme"] == "mup" and "loaded" in captured.err
    print("and afterwards as before")
    assert capsys.readouterr().out == "and afterwards as before\n"


def test_a_study_without_a_single_complete_trial_is_no_success(tmp_path, capsys):
    path, url = (
        recipe_file(tmp_path, inside="return cases.loss(model, batch) * float('nan')"),
        f"sqlite:///{tmp_path}/s",
    )
    args = ["study", path, "--trials", "2", "--workers", "1", "--widths", "8,16", "--storage", url]
    assert main(args) == 1
    out = capsys.readouterr().out
    assert "0 complete, 4 diverged, 0 pruned, 0 failed" in out and "no trial was completed" in out


def test_a_failed_coordinate_check_is_printed(tmp_path, capsys, monkeypatch):
    from hptransfer.cli.checks import check
    from tests.cases.reporting import result

    coord = {"verdict": "FAIL", "reasons": ["0.weight grows", "two.", "three", "four"]}
    monkeypatch.setattr(check, "_checked", lambda *_: result(coord=coord))
    assert main(["check", recipe_file(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "Coordinate check: FAIL: 0.weight grows; two; three; and 1 more." in capsys.readouterr().out
