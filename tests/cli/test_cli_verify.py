"""`hptransfer plan --verify` prints both exponents and fails on disagreement."""

import json

from hptransfer.cli import main
from hptransfer.core import rules


def test_verify_passes_the_derived_plan_and_fails_the_sp_control(capsys):
    assert main(["plan", "recipes/mlp.py", "--verify"]) == 0
    assert "PASS" in capsys.readouterr().out
    assert main(["plan", "recipes/mlp.py", "--verify", "--scheme", "sp", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "FAIL"


def test_verify_measures_the_forward_that_was_asked_for(capsys):
    """A unit forward is measured on a training batch: on the recipe's example inputs, zeros, it would be refused."""
    assert main(["plan", "recipes/mlp.py", "--forward", "unit", "--verify"]) == 0
    assert "PASS" in capsys.readouterr().out
    assert main(["plan", "recipes/mlp.py", "--forward", "units", "--verify"]) == 2
    assert "use one of ('own', 'unit')" in capsys.readouterr().err
    assert main(["plan", "recipes/mlp.py", "--forward", "unit", "--verify", "--scheme", "sp"]) == 2
    assert "scheme 'sp' keeps the model's own" in capsys.readouterr().err


def test_a_plan_is_checked_unless_told_not_to(capsys):
    assert main(["plan", "recipes/mlp.py"]) == 0
    assert capsys.readouterr().out.startswith("verified (width 64..256; ")
    assert main(["plan", "recipes/mlp.py", "--no-verify"]) == 0
    assert capsys.readouterr().out.startswith("not verified: left out, as asked\n")


def test_a_plan_that_fails_its_check_exits_with_1(capsys, monkeypatch):
    monkeypatch.setattr(rules, "_update", lambda *_: rules.Power())
    assert main(["plan", "recipes/mlp.py"]) == 1
    assert capsys.readouterr().out.startswith("FAILED: ")
