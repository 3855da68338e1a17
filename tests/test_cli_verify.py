"""`hptransfer plan --verify` prints both exponents and fails on disagreement."""

import json

from hptransfer.cli import main


def test_verify_passes_the_derived_plan_and_fails_the_sp_control(capsys):
    assert main(["plan", "recipes/mlp.py", "--verify"]) == 0
    assert "PASS" in capsys.readouterr().out
    assert main(["plan", "recipes/mlp.py", "--verify", "--scheme", "sp", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "FAIL"
