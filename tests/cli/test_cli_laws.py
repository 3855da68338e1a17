"""hptransfer laws: fits the user's own runs, says how far they reach, and refuses what they cannot tell."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hptransfer.cli import main
from hptransfer.prediction.laws.scaling import LossLaw

LAW = LossLaw("chinchilla", 1.8, 480.0, 0.35, 2100.0, 0.37)


def write(path, params, tokens, header="params,tokens,loss"):
    losses = LAW.loss(params, tokens) * np.exp(2e-3 * np.random.default_rng(0).normal(size=len(params)))
    rows = [f"{n},{d},{y}" for n, d, y in zip(params, tokens, losses, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


@pytest.fixture
def runs(tmp_path):
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(5e7, 2e9, 5), np.geomspace(1e9, 5e10, 5)))
    return write(tmp_path / "runs.csv", params, tokens)


def test_the_three_laws_are_fitted_and_a_budget_is_split(runs, capsys):
    assert main(["laws", runs, "--budget", "1e21"]) == 0
    out = capsys.readouterr().out
    assert all(form in out for form in ("chinchilla", "kaplan", "generalised"))
    assert "compute-optimal parameters" in out and "form's error at 10x" in out
    assert main(["laws", runs, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chinchilla"]["law"]["a"] == pytest.approx(0.35, abs=0.05)


def test_a_far_budget_needs_to_be_asked_for(runs, capsys):
    assert main(["laws", runs, "--budget", "1e25"]) == 2
    assert "--far" in capsys.readouterr().err
    assert main(["laws", runs, "--budget", "1e25", "--far"]) == 0
    assert main(["laws", runs, "--budget", "-1"]) == 2


def test_runs_on_one_line_tell_their_line_and_no_split(tmp_path, capsys):
    params = np.geomspace(1e7, 1e10, 9)
    path = write(tmp_path / "line.csv", params, 20 * params, "N,tokens,loss")
    assert main(["laws", path, "--columns", "params=N"]) == 0
    assert "along that line alone" in capsys.readouterr().out
    assert main(["laws", path, "--columns", "params=N", "--budget", "1e21"]) == 2
    captured = capsys.readouterr()
    assert "final loss" in captured.out and "cannot be told" in captured.err


def test_a_file_that_lacks_a_column_or_runs_is_refused(tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_text("params,loss\n1e8,3.0\n")
    assert main(["laws", str(path)]) == 2
    assert "no column 'tokens'" in capsys.readouterr().err
    path.write_text("params,tokens,loss\n1e8,1e9,3.0\n2e8,1e9,2.9\n")
    assert main(["laws", str(path)]) == 2
