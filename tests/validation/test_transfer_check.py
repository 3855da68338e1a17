"""transfer_check end to end on real training, small: what it finds, what it refuses, what it keeps."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale
from hptransfer.parametrization.options import Options, Tuned
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.records.results import TransferResult
from hptransfer.validation.records.runs import read_runs
from hptransfer.validation.sweep import run_sweep
from hptransfer.validation.transfer import transfer_check
from tests.cases import validation as cases
from tests.cases.validation import recipe

LINEAR = recipe.replace(
    name="linear in width",
    optimizer=torch.optim.SGD,
    widths=(32, 256),
    lrs=tuple(2.0**k for k in range(-6, 1)),
    seeds=3,
    steps=20,
    base=Scale(width=32),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return transfer_check(LINEAR, out=out, workers=2, command="hptransfer check linear.py"), out


def test_everything_is_filled_in_and_survives_the_disk(found):
    result, out = found
    assert TransferResult.load(out) == result
    assert (result.recipe, result.scheme, result.against, result.base_size) == ("linear in width", "mup", "sp", 32)
    assert result.sizes == (32, 256) and result.seeds == (0, 1, 2) and result.steps == 20
    assert set(LINEAR.lrs) <= set(result.lrs) and result.command == "hptransfer check linear.py"
    assert {(o.scheme, o.size) for o in result.optima} == {(s, w) for s in ("mup", "sp") for w in (32, 256)}
    assert [d.scheme for d in result.drifts] == ["mup", "sp"] and [g.size for g in result.loss_gaps] == [32, 256]
    assert result.plan["scheme"] == "mup" and {"torch", "python", "cores", "date"} <= set(result.environment)
    assert result.reasons and result.rule


def test_at_the_base_width_both_schemes_are_one(found):
    result, _ = found
    mup, sp = result.optimum("mup", 32), result.optimum("sp", 32)
    assert dataclasses.replace(mup, scheme="sp").loss == sp.loss and mup.log2_lr == sp.log2_lr
    assert result.loss_gaps[0].mup_minus_sp == 0.0


def test_readouts_that_start_at_zero_do_so_under_the_control_too():
    """At the base's size both schemes are one; without that a loss gap would compare two initialisations."""
    options = {"options": Options(readout_init="zero")}
    runs = run_sweep(LINEAR, widths=[32], lrs=[2**-4], seeds=1, schemes=["mup", "sp"], plan_options=options, workers=1)
    own = run_sweep(LINEAR, widths=[32], lrs=[2**-4], seeds=1, schemes=["sp"], workers=1)
    mup, sp = ([(run.val_loss, run.curve) for run in runs if run.scheme == name] for name in ("mup", "sp"))
    assert mup == sp and sp[0][0] != own[0].val_loss
    for both in (Options(readout_init="zero"), Options(readout_init="zero", forward="unit")):
        plan = Trainer(LINEAR, plan_options={"options": both, "tuned": {"*": Tuned(lr=2)}}).prepare("sp", LINEAR.base)
        assert plan is not None and [row.name for row in plan if row.init_mult != 1] == ["2.weight"]
        assert all((row.lr_mult, row.wd_mult, row.eps_mult) == (1, 1, 1) for row in plan)


def test_a_result_says_that_a_unit_forward_is_compared_with_other_initial_scales():
    given = {"widths": [32, 64], "lrs": [2**-5, 2**-4, 2**-3], "seeds": 1, "steps": 2, "extend": 0.0, "workers": 1}
    unit = {"plan_options": {"options": Options(forward="unit")}}
    notes = transfer_check(LINEAR, **given, **unit).notes
    assert [note for note in notes if "'sp' keeps the model's own" in note and "compare the two inits" in note]
    assert not any("two inits" in note for note in transfer_check(LINEAR, **given, **unit, against=None).notes)


def test_regret_was_measured_at_the_transferred_rate(found):
    result, _ = found
    for regret in result.regrets:
        narrow = result.optimum(regret.scheme, 32)
        assert math.log2(regret.lr) == pytest.approx(narrow.log2_lr, abs=1e-3)
        runs = [r for r in result.runs if (r.scheme, r.width, r.lr) == (regret.scheme, 256, regret.lr)]
        assert len(runs) == 3


def test_sp_moves_further_than_mup(found):
    result, _ = found
    mup, sp = (next(d for d in result.drifts if d.scheme == s) for s in ("mup", "sp"))
    assert abs(mup.octaves) < abs(sp.octaves)


def test_a_rerun_finds_the_same_without_training(found, monkeypatch):
    result, out = found
    monkeypatch.setattr("hptransfer.validation.engines.trainer.Trainer.run", lambda *_: pytest.fail("trained again"))
    again = transfer_check(LINEAR, out=out, workers=1, command="hptransfer check linear.py")
    assert dataclasses.replace(again, environment=result.environment) == result


def test_a_poor_grid_is_extended_up_to_the_bound_and_only_where_needed():
    poor = LINEAR.replace(lrs=(2**-14, 2**-13, 2**-12), seeds=1, steps=10, widths=(32, 64))
    reached = transfer_check(poor, sampler="grid", workers=1, against=None, extend=2.0)
    assert max(reached.lrs) == 2**-10 and reached.verdict == "INCONCLUSIVE"
    assert any("at the edge" in reason for reason in reached.reasons)
    inside = transfer_check(
        poor.replace(lrs=(2**-9, 2**-8, 2**-7)), sampler="grid", workers=1, against=None, extend=12.0
    )
    assert not any(o.at_edge for o in inside.optima) and len(inside.lrs) > 3
    fixed = transfer_check(poor, sampler="grid", workers=1, against=None, extend=0.0)
    assert fixed.lrs == poor.lrs


def test_other_schemes_and_no_control():
    small = LINEAR.replace(seeds=1, steps=5, widths=(32, 64), lrs=(2**-6, 2**-4, 2**-2))
    alone = transfer_check(small, scheme="sp", workers=1, extend=0.0)
    assert (
        alone.against is None
        and alone.loss_gaps == ()
        and alone.plan == {}
        and {r.scheme for r in alone.runs} == {"sp"}
    )
    both = transfer_check(small, scheme="ntp", workers=1, extend=0.0)
    assert {r.scheme for r in both.runs} == {"ntp", "sp"} and both.plan["scheme"] == "ntp"


def test_nan_everywhere_is_a_fail_with_the_runs_kept(tmp_path):
    result = transfer_check(recipe.replace(loss=cases.nan_loss, seeds=3), workers=1, out=tmp_path, extend=2.0)
    assert result.verdict == "FAIL" and "mup at width 8: every run diverged." in result.reasons
    assert {run.state for run in TransferResult.load(tmp_path).runs} == {"diverged"}


def test_a_recipe_that_raises_is_one_clear_line_with_the_runs_kept(tmp_path):
    with pytest.raises(UsageError, match=r"All 6 runs failed; the first .*: RuntimeError: the data are on fire"):
        transfer_check(recipe.replace(loss=cases.raising_loss), workers=1, out=tmp_path)
    assert len(read_runs(tmp_path / "runs.jsonl")[0]) == 16  # a brief probe and three runs of every cell, no grid


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [64]}, r"widths=\[64\]: a transfer needs at least two widths"),
        ({"widths": []}, "widths is empty"),
        ({"widths": [8, 8]}, "8 more than once"),
        ({"lrs": [0.1, 0.2]}, "at least three learning rates"),
        ({"lrs": [0.1, 0.1, 0.2]}, "0.1 more than once"),
        ({"lrs": [-0.1, 0.1, 0.2]}, "-0.1 is not a learning rate"),
        ({"seeds": 0}, "seeds=0"),
        ({"scheme": "mu"}, "'mu' is unknown"),
        ({"against": "standard"}, "'standard' is unknown"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
        ({"tolerance": math.nan}, "tolerance=nan"),
        ({"extend": -1.0}, "extend=-1.0"),
        ({"storage": "not a url"}, "not a database URL"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(monkeypatch, options, message):
    monkeypatch.setattr("hptransfer.validation.engines.trainer.Trainer.run", lambda *_: pytest.fail("trained"))
    with pytest.raises(UsageError, match=message):
        transfer_check(recipe, workers=1, **options)


def test_a_recipe_file_is_loaded_by_path(tmp_path):
    with pytest.raises(UsageError, match=r"No recipe file at 'nowhere.py'"):
        transfer_check("nowhere.py")
