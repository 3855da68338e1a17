"""A mixture's axes in a check: jobs and their keys, the plan at each size, tables of others' runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale, load_recipe
from hptransfer.validation.axes import growth
from hptransfer.validation.engines.trainer import Trainer
from hptransfer.validation.grid import grid_of, job_at
from hptransfer.validation.records.runs import Job, Run
from hptransfer.validation.tables.judge import judge_table
from hptransfer.validation.transfer import transfer_check

MOE = f"{Path(__file__).parents[2] / 'recipes' / 'gpt.py'}:moe"


def test_experts_grow_at_the_bases_active_ones_and_width():
    recipe = load_recipe(MOE)
    scales = growth(recipe, experts=[16, 4, 8]).scales
    assert scales == tuple(recipe.base.with_(experts=count) for count in (4, 8, 16))
    together = growth(recipe, widths=[32, 64], experts=[8, 16])
    assert together.axis == "width" and [s.experts for s in together.scales] == [8, 16]
    with pytest.raises(UsageError, match="2 widths, 3 experts"):
        growth(recipe, widths=[32, 64], experts=[4, 8, 16])
    with pytest.raises(UsageError, match="not a positive whole number"):
        growth(recipe, active=[0, 2])


def test_a_job_says_its_experts_and_one_without_has_the_key_that_it_had():
    scale = Scale(width=32, experts=8, active=2)
    job = job_at("mup", scale, lr=0.1, seed=0, steps=5, fingerprint="f")
    assert job.scale == scale and "experts=8 active=2" in job.key and "experts 8 active 2" in str(job)
    run = Run(*("mup", 32, None, 0.1, 0, 5, 1.0, 1.0, (), False, 0.1, "complete"), fingerprint="f", experts=8, active=2)
    assert run.job == job
    assert Job("mup", 32, None, 0.1, 0, 5, fingerprint="f").key == "mup width=32 lr=0.1 seed=0 steps=5 f"


def test_the_plan_of_more_experts_and_a_job_that_names_none():
    recipe = load_recipe(MOE)
    trainer = Trainer(recipe)
    (job,) = grid_of(recipe, scales=[recipe.base.with_(experts=16)], lrs=[0.01], seeds=1, schemes=["mup"]).jobs("")
    plan = trainer.prepared(job)
    assert plan is not None
    assert plan.rows["blocks.0.mixture.up"].lr_mult == plan.rows["blocks.0.mixture.down"].lr_mult == 1.0
    assert plan.rows["blocks.0.mixture.up"].eps_mult == 0.5  # twice as many share the gradient
    assert trainer.scale(Job("mup", 32, 2, 0.01, 0, 5)) == recipe.base


def test_a_check_over_experts_is_judged_by_them(tmp_path):
    small = load_recipe(MOE).replace(base=Scale(width=8, depth=1, experts=4, active=2), steps=2)
    result = transfer_check(
        small, experts=[2, 4], lrs=[0.01, 0.02, 0.04], seeds=1, workers=1, sampler="grid", extend=0, out=tmp_path
    )
    assert (result.axis, result.sizes) == ("experts", (2, 4)) and {run.experts for run in result.runs} == {2, 4}


def test_a_table_of_others_runs_is_judged_by_its_experts(tmp_path):
    rows = [
        f"{experts},{lr},{seed},{(lr - 0.01) ** 2 + seed * 1e-6}"
        for experts in (8, 16)
        for lr in (0.005, 0.01, 0.02)
        for seed in (0, 1, 2)
    ]
    path = tmp_path / "runs.csv"
    path.write_text("num_experts,lr,seed,val_loss\n" + "\n".join(rows) + "\n")
    assert judge_table(path).axis == "experts"
