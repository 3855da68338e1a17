"""Options(eps=...): "fixed" leaves every group's eps as given, "scaled" keeps the trained function in every form."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import hptransfer as hpt
from tests.cases.models import MLP, Shape, Transformer, batches, losses, seeded

FIXED = hpt.Options(eps="fixed")


def transformer(width: int, depth: int = 1) -> nn.Module:
    return seeded(Transformer, Shape(width, depth=depth, tied=True))


def plan_of(optimizer, width: int = 32, depth: int = 1, **given) -> hpt.Plan:
    x = batches("transformer", 1)[0][0]
    return hpt.make_plan(
        transformer(width, depth), base=transformer(8), example_inputs=(x,), optimizer=optimizer, **given
    )


@pytest.mark.parametrize("scheme", ["mup", "completep", "umup", "ntp"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.Adadelta])
def test_fixed_means_that_every_group_has_the_eps_that_was_given(optimizer, scheme: str) -> None:
    """Absorbed multipliers (attention, the tied head), depth and the batch size do not move it."""
    scales: dict[str, Any] = {"scale": hpt.Scale(batch=64, tokens=64), "base_scale": hpt.Scale(batch=16, tokens=64)}
    plan = plan_of(optimizer, depth=2, scheme=scheme, options=FIXED, **scales)
    model = transformer(32, depth=2)
    groups = hpt.param_groups(model, plan, lr=1e-3, eps=3e-7)
    assert {group["eps"] for group in groups} == {3e-7} and len(groups) > 1
    scaled = hpt.param_groups(model, plan_of(optimizer, depth=2, scheme=scheme, **scales), lr=1e-3, eps=3e-7)
    assert len({group["eps"] for group in scaled}) > 1


def test_mup_leaves_eps_as_given_too() -> None:
    mup = pytest.importorskip("mup", reason="mup is not installed (pip install --no-deps mup): no parity oracle")
    theirs = seeded(MLP, 32, readout=mup.MuReadout)
    mup.set_base_shapes(theirs, seeded(MLP, 8, readout=mup.MuReadout), delta=seeded(MLP, 16, readout=mup.MuReadout))
    assert {group["eps"] for group in mup.MuAdam(theirs.parameters(), lr=1e-3, eps=3e-7).param_groups} == {3e-7}


@pytest.mark.parametrize("options", [hpt.Options(eps="scaled"), FIXED])
@pytest.mark.parametrize("scheme", ["mup", "completep"])
def test_both_forms_of_a_plan_train_one_function(scheme: str, options: hpt.Options) -> None:
    plan, data = plan_of(torch.optim.AdamW, scheme=scheme, options=options), batches("transformer", 1) * 10
    found = []
    for form in (plan.absorb(), plan.as_multipliers()):
        model = copy.deepcopy(transformer(32))
        hpt.parametrize_(model, form)
        found.append(losses(model, torch.optim.AdamW(hpt.param_groups(model, form, lr=1e-2, eps=1e-3)), data))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=0)


def test_adadelta_s_rate_does_not_follow_an_eps_that_stays() -> None:
    """Its step is proportional to a root of eps, so with eps fixed it needs the rates of any other sign-like step."""
    adam, fixed, scaled = plan_of(torch.optim.Adam), plan_of("Adadelta", options=FIXED), plan_of("Adadelta")
    for row in adam:
        assert fixed[row.name].lr_mult == pytest.approx(row.lr_mult, rel=1e-12)
    assert any(scaled[row.name].lr_mult != pytest.approx(row.lr_mult) for row in adam)
