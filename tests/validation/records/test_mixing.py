"""Runs that do not belong together: another plan's, another version's, and pairs that a random recipe set apart."""

from __future__ import annotations

import dataclasses
import random

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.reporting.words import table
from hptransfer.validation.records import identity
from hptransfer.validation.records.identity import fingerprint
from hptransfer.validation.records.mixing import nondeterminism
from hptransfer.validation.records.runs import read_runs
from hptransfer.validation.sweep import run_sweep
from hptransfer.validation.transfer import transfer_check
from tests.cases import validation as cases
from tests.cases.validation import recipe
from tests.validation.records.test_results import GONE, RUN

SMALL = recipe.replace(steps=4, seeds=1)
PAIR = {"scheme": "mup", "control": "sp", "axis": "width", "base": 64}


def test_runs_say_under_which_plan_they_were_trained(tmp_path):
    runs = run_sweep(SMALL, workers=1, out=tmp_path)
    plans = {(run.scheme, run.width): run.plan for run in runs}
    assert plans["sp", 8] == plans["sp", 16] == "" and len({plans["mup", 8], plans["mup", 16], ""}) == 3
    kept = read_runs(tmp_path / "runs.jsonl")[0]
    assert {run.key: run.plan for run in kept} == {run.key: run.plan for run in runs}


def test_runs_of_another_plan_are_not_mixed_in(tmp_path):
    run_sweep(SMALL, workers=1, out=tmp_path)
    path = tmp_path / "runs.jsonl"
    mine = next(run.plan for run in read_runs(path)[0] if run.plan)
    before = path.read_text().replace(mine, "0123456789abcdef")
    path.write_text(before)
    with pytest.raises(UsageError, match=r"trained under plan 0123456789abcdef, which is now .*Give another directory"):
        run_sweep(SMALL, workers=1, out=tmp_path)
    assert path.read_text() == before
    path.write_text(before.replace(', "plan": "0123456789abcdef"', ""))  # of an earlier version, which did not say
    assert len(run_sweep(SMALL, workers=1, out=tmp_path)) == 12


@pytest.mark.parametrize("name", ["torch", "hptransfer"])
def test_another_version_is_another_fingerprint(name, monkeypatch):
    before = fingerprint(recipe)
    if name == "torch":
        monkeypatch.setattr(identity.torch, "__version__", "0.0.1")
    else:
        monkeypatch.setattr(identity, "__version__", "0.0.1")
    assert fingerprint(recipe) != before


def test_a_recipe_that_draws_from_elsewhere_is_told_apart_at_the_base():
    stray = random.Random()

    def loss(model, batch):
        return cases.loss(model, batch) * (1 + 0.1 * stray.random())

    found = transfer_check(SMALL.replace(loss=loss), workers=1, extend=0.0, sampler="grid")
    assert any("not deterministic" in note and "3 of 3 pairs" in note for note in found.notes)
    assert "Note: The recipe is not deterministic" in table(found)
    assert not any(
        "deterministic" in note for note in transfer_check(SMALL, workers=1, extend=0.0, sampler="grid").notes
    )


def test_pairs_are_equal_to_the_last_bit_or_told():
    other = dataclasses.replace(RUN, scheme="sp")
    assert nondeterminism([RUN, other], **PAIR) == ""
    near = dataclasses.replace(other, val_loss=RUN.val_loss * (1 + 2**-52))
    assert "1 of 1 pairs" in nondeterminism([RUN, near], **PAIR)
    assert nondeterminism([dataclasses.replace(RUN, width=128), near], **PAIR) == ""  # not at the base
    assert nondeterminism([dataclasses.replace(RUN, engine="lanes"), near], **PAIR) == ""  # equal up to rounding
    gone = dataclasses.replace(GONE, scheme="sp", lr=RUN.lr)
    assert "0.5 against inf" in nondeterminism([RUN, gone], **PAIR)


def test_runs_of_two_settings_are_no_pair_in_whatever_order_they_were_made():
    weak, strong = (dataclasses.replace(RUN, settings=f"weight_decay={k}", val_loss=1.0 / k) for k in (2, 4))
    control = [dataclasses.replace(run, scheme="sp") for run in (strong, weak)]
    assert nondeterminism([weak, strong, *control], **PAIR) == ""
    apart = [dataclasses.replace(control[0], val_loss=0.3), control[1]]
    assert "1 of 2 pairs of runs ended apart" in nondeterminism([weak, strong, *apart], **PAIR)
