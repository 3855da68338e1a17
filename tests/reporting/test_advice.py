"""The page tells the rate to use and gives code that runs; without a PASS it gives neither."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import hptransfer as hpt
from hptransfer.reporting.report.advice import advice
from tests.cases.reporting import BEST, plan_json, result

ADAM = [{"name": "AdamW"}]


def with_optimizers(*names: str, **changes):
    plan = plan_json() | {"optimizers": [{"name": name} for name in names]}
    hidden = plan["rows"][0] | {"role": "hidden", "optimizer": names[0]}
    return result(plan=plan | {"rows": [*plan["rows"], hidden]}, **changes)


def test_a_pass_names_the_rate_that_was_carried_over_and_how_far_it_was_judged():
    told = advice(result())
    assert f"{2**-6.8:.3g}" in told.lead and "muP" in told.lead
    low, high = BEST["mup", 64] - 0.2, BEST["mup", 64] + 0.15
    assert f"{2**low:.3g} to {2**high:.3g}" in told.more and "width 64" in told.more and "width 512" in told.more


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_without_a_pass_there_is_no_rate_to_use_and_no_code(verdict):
    told = advice(result(verdict))
    assert told.lead.startswith("No learning rate") and told.code == ""
    assert f"{2**-6.8:.3g}" in told.more


def test_no_optimum_no_advice():
    lost = tuple(dataclasses.replace(o, log2_lr=math.nan) for o in result().optima)
    for optima in ((), lost):
        assert "none of these runs" in advice(result("FAIL", optima=optima)).lead


def models():
    def build(width):
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    return {"base": build(8), "model": build(16), "x": torch.zeros(1, 4)}


def test_the_code_runs_and_gives_the_rate():
    names = models()
    exec(advice(with_optimizers("AdamW")).code, names)
    optimizer, lr = names["optimizer"], float(f"{2**-6.8:.3g}")
    assert isinstance(optimizer, torch.optim.AdamW)
    assert sorted({round(g["lr"] / lr, 6) for g in optimizer.param_groups}) == [0.5, 1.0]  # hidden: 8/16


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
@pytest.mark.parametrize("listed", [("Muon", "AdamW"), ("AdamW", "Muon")])
def test_the_code_of_two_optimizers_runs(listed):
    plan = plan_json() | {"optimizers": [{"name": name} for name in listed]}
    plan["rows"] = [plan["rows"][0] | {"role": "hidden", "optimizer": "Muon"}]
    names = models()
    exec(advice(result(plan=plan)).code, names)
    assert isinstance(names["plan"], hpt.Plan)
    assert {type(o).__name__ for o in names["optimizer"].inner} == {"Muon", "AdamW"}


def test_another_scheme_is_named_and_a_table_without_a_plan_gives_the_rate_only():
    assert "scheme='completep'" in advice(with_optimizers("AdamW", scheme="completep", **of("completep"))).code
    assert advice(result(plan={})).code == f"lr = {2**-6.8:.3g}\n"


def of(scheme):
    """The known result's optima and regrets under another name."""
    fields = ("optima", "regrets")
    return {f: tuple(dataclasses.replace(x, scheme=scheme) for x in getattr(result(), f)) for f in fields}
