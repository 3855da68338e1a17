"""Half of a plan speaks: weights without rates, rates without weights, options that nothing reads."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import hptransfer as hpt
from hptransfer.core.errors import HalfApplied
from hptransfer.parametrization.apply.marks import marks, unscaled
from tests.cases.models import MLP, batches, losses, seeded

X = batches("mlp", 1)[0][0]
optim = torch.optim


def planned(optimizer=optim.AdamW, options=None, **given) -> tuple[nn.Module, hpt.Plan]:
    model = seeded(MLP, 32)
    made = {"example_inputs": (X,), "optimizer": optimizer, "optimizer_options": options, **given}
    return model, hpt.make_plan(model, base=seeded(MLP, 8), **made)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    losses(model, optimizer, batches("mlp", 1))


def test_planned_groups_on_weights_that_were_not_scaled() -> None:
    model, plan = planned()
    optimizer = optim.AdamW(hpt.param_groups(model, plan, lr=1e-3))
    with pytest.warns(HalfApplied, match=r"weights were not scaled for it: the rms of 'last.weight' is"):
        step(model, optimizer)
    step(model, optimizer)  # once


def test_scaled_in_either_order_or_loaded_is_whole() -> None:
    for early in (True, False):
        model, plan = planned()
        if early:
            hpt.parametrize_(model, plan)
        optimizer = optim.AdamW(hpt.param_groups(model, plan, lr=1e-3))
        if not early:
            hpt.parametrize_(model, plan)
        step(model, optimizer)
    trained, (fresh, plan) = copy.deepcopy(model), planned()
    fresh.load_state_dict(trained.state_dict())
    hpt.parametrize_(fresh, plan, init=False)
    step(fresh, optim.AdamW(hpt.param_groups(fresh, plan, lr=1e-3)))


def test_an_optimizer_of_ones_own_on_a_scaled_model() -> None:
    model, plan = planned()
    hpt.parametrize_(model, plan)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.warns(HalfApplied, match="AdamW trains a model whose weights were scaled .*hptransfer.apply_plan"):
        step(model, optimizer)
    step(model, optimizer)


def test_a_plan_that_asks_nothing_of_the_optimizer_says_nothing() -> None:
    model = seeded(MLP, 8)
    plan = hpt.make_plan(model, base=seeded(MLP, 8), example_inputs=(X,))
    hpt.parametrize_(model, plan)
    step(model, optim.AdamW(model.parameters(), lr=1e-3))


def test_the_mark_is_behind_wrappers_and_in_copies() -> None:
    model, plan = planned()
    assert marks(model) == set() and unscaled(model, plan) is not None
    hpt.parametrize_(model, plan)
    wrapped = nn.Sequential(copy.deepcopy(model))
    assert marks(wrapped) == {plan.fingerprint} and unscaled(wrapped, plan) is None
    assert "_hpt_plan" not in str(model.state_dict().keys())


def test_forward_multipliers_that_are_missing_are_seen_without_values() -> None:
    model, plan = planned()
    assert "forward multipliers" in str(unscaled(model, plan.as_multipliers()))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"weight_decay": 0.3}, {}, r"was given weight_decay=0.3, but nothing reads it.* made from 0.0"),
        ({"eps": 1e-3}, {}, "was given eps=0.001, but nothing reads it"),
        ({"lr": 0.5}, {}, "was given lr=0.5, but nothing reads it"),
        ({"betas": (0.9, 0.95)}, {"scale": hpt.Scale(batch=64), "base_scale": hpt.Scale(batch=16)}, "betas=.*nothing"),
    ],
)
def test_options_that_the_groups_hide_are_an_error(given, options, message: str) -> None:
    model, plan = planned(**options)
    hpt.parametrize_(model, plan)
    with pytest.raises(hpt.UsageError, match=message):
        step(model, optim.AdamW(hpt.param_groups(model, plan, lr=1e-3), **given))
    twin, _ = planned()  # what the groups were made from may be said again
    hpt.parametrize_(twin, plan)
    step(
        twin, optim.AdamW(hpt.param_groups(twin, plan, lr=1e-3, weight_decay=0.3, eps=1e-4), lr=1e-3, weight_decay=0.3)
    )


@pytest.mark.parametrize(
    ("cls", "planned_with", "given", "message"),
    [
        (optim.Muon, {}, {"adjust_lr_fn": "match_rms_adamw"}, "adjust_lr_fn='match_rms_adamw'.*made for Muon with 'or"),
        (optim.Adam, {}, {"decoupled_weight_decay": True}, "decoupled_weight_decay='decoupled', .* with 'l2'"),
        (optim.Adam, {"decoupled_weight_decay": True}, {}, "='l2', but the plan was made for Adam with 'decoupled'"),
    ],
)
def test_flags_that_change_a_rule_are_read_in_the_groups(cls, planned_with, given, message: str) -> None:
    base, model = (nn.Sequential(*(nn.Linear(i, o, bias=False) for i, o in ((8, w), (w, w), (w, 4)))) for w in (8, 32))
    plan = hpt.make_plan(model, base=base, example_inputs=(X,), optimizer=cls, optimizer_options=planned_with)
    hpt.parametrize_(model, plan)
    optimizer = cls(hpt.param_groups(model, plan, lr=1e-3), **given)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(hpt.UsageError, match=message):
        optimizer.step()


def test_betas_that_follow_the_batch_are_held() -> None:
    model, plan = planned(scale=hpt.Scale(batch=64), base_scale=hpt.Scale(batch=16))
    hpt.parametrize_(model, plan)
    optimizer = optim.AdamW(hpt.param_groups(model, plan, lr=1e-3))
    step(model, optimizer)
    optimizer.param_groups[0]["betas"] = (0.9, 0.999)
    with pytest.raises(hpt.UsageError, match=r"with betas=\(0.9, 0.999\), but the plan was made for AdamW with"):
        step(model, optimizer)


def test_set_lr_is_what_a_new_scheduler_starts_from() -> None:
    model, plan = planned()
    hpt.parametrize_(model, plan)
    optimizer = optim.AdamW(hpt.param_groups(model, plan, lr=1e-2))
    optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    hpt.set_lr(optimizer, 1e-3)
    for scheduler in (optim.lr_scheduler.LambdaLR, optim.lr_scheduler.MultiplicativeLR):
        scheduler(optimizer, lambda t: 1.0)
        assert [g["lr"] / g["lr_mult"] for g in optimizer.param_groups] == pytest.approx(
            [1e-3] * len(optimizer.param_groups)
        )


def test_set_lr_needs_multipliers() -> None:
    model, plan = planned()
    with pytest.raises(hpt.UsageError, match="group 0 of SGD carries no lr_mult"):
        hpt.set_lr(optim.SGD(model.parameters(), lr=0.1), 0.2)
    hpt.parametrize_(model, plan)
    optimizer = optim.AdamW(hpt.param_groups(model, plan, lr=1e-2))
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(hpt.UsageError, match=f"group {len(optimizer.param_groups) - 1} of AdamW carries no lr_mult"):
        hpt.set_lr(optimizer, 1e-3)


def test_declared_decay_free_of_lr_shrinks_every_weight_alike() -> None:
    class Free(torch.optim.AdamW):
        """w *= 1 - (lr / initial lr) wd."""

        @torch.no_grad()
        def step(self, closure=None):  # type: ignore[override]
            kept = [group["weight_decay"] for group in self.param_groups]
            for group, wd in zip(self.param_groups, kept, strict=True):
                ratio = group["lr"] / group.setdefault("initial_lr", group["lr"])
                for p in group["params"]:
                    p.mul_(1 - ratio * wd)
                group["weight_decay"] = 0.0
            super().step()
            for group, wd in zip(self.param_groups, kept, strict=True):
                group["weight_decay"] = wd

    hpt.register_optimizer(Free, like=torch.optim.AdamW, decay="fixed")
    scales = {"scale": hpt.Scale(batch=64, tokens=640), "base_scale": hpt.Scale(batch=16, tokens=640)}
    for given, expected in (({}, 0.01), (scales, 0.04)):  # a step of four times the samples shrinks four times as much
        model, plan = planned(Free, **given)
        hpt.parametrize_(model, plan)
        optimizer = Free(hpt.param_groups(model, plan, lr=1e-2, weight_decay=0.01))
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), before[name] * (1 - expected), rtol=1e-6, atol=1e-9)
