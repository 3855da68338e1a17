"""Options of an optimizer that no rule scales reach it as they were given."""

from __future__ import annotations

import torch

import hptransfer as hpt
from tests.cases.models import MLP, batches, seeded


def test_muon_s_eps_is_the_given_one_and_adamw_s_is_scaled() -> None:
    """Muon divides by a norm of the whole matrix: its eps follows no entry of the gradient."""
    model, x = seeded(MLP, 32), batches("mlp", 1)[0][0]
    classes = {"hidden": torch.optim.Muon, "rest": torch.optim.AdamW}
    plan = hpt.make_plan(model, base=seeded(MLP, 8), example_inputs=(x,), optimizer=classes)
    settings = {torch.optim.Muon: {"lr": 0.02, "eps": 1e-3}, torch.optim.AdamW: {"lr": 1e-3, "eps": 1e-6}}
    optimizer = hpt.build_optimizers(model, plan, settings)
    groups = {name: group for group in optimizer.param_groups for name in group["hpt_names"]}
    assert groups["hidden.weight"]["eps"] == 1e-3
    assert groups["first.weight"]["eps"] == 1e-6 * plan["first.weight"].eps_mult
