"""Parameter groups: what they hold, and that no scheduler or loop can undo the multipliers unnoticed."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as sched

import hptransfer as hpt
from tests.cases.models import MLP, Shape, Transformer, batches, losses, seeded

LR, STEPS = 1e-2, 12


def wide(optimizer=torch.optim.AdamW, **options) -> tuple[nn.Module, hpt.Plan]:
    model = seeded(MLP, 32)
    x = batches("mlp", 1)[0][0]
    plan = hpt.make_plan(model, base=seeded(MLP, 8), example_inputs=(x,), optimizer=optimizer, **options)
    hpt.parametrize_(model, plan)
    return model, plan


def built(lr: float = LR, cls=torch.optim.AdamW, **options) -> tuple[nn.Module, torch.optim.Optimizer]:
    model, plan = wide(cls)
    return model, cls(hpt.param_groups(model, plan, lr=lr), **options)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    losses(model, optimizer, batches("mlp", 1))


def test_groups_hold_each_trainable_parameter_once_with_its_own_settings() -> None:
    model, plan = wide()
    model.last.bias.requires_grad_(False)
    groups = hpt.param_groups(model, plan, lr=LR, weight_decay=0.1, eps=1e-6)
    names = [name for group in groups for name in group["hpt_names"]]
    assert sorted(names) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    for group in groups:
        for name, parameter in zip(group["hpt_names"], group["params"], strict=True):
            row = plan[name]
            assert parameter is model.get_parameter(name)
            assert group["lr"] == pytest.approx(LR * row.lr_mult) and group["lr_mult"] == pytest.approx(row.lr_mult)
            assert group["lr"] * group["weight_decay"] == pytest.approx(LR * 0.1)  # shrinkage per step is the base's
            assert group["eps"] == pytest.approx(1e-6 * row.eps_mult)


def test_decay_can_spare_parameters_and_coupled_decay_is_as_given() -> None:
    model, plan = wide()
    groups = hpt.param_groups(model, plan, lr=LR, weight_decay=0.1, decay=lambda name, p: p.dim() > 1)
    for group in groups:
        assert (group["weight_decay"] == 0) == all(p.dim() == 1 for p in group["params"])
    model, plan = wide(options=hpt.Options(weight_decay="coupled"))
    assert {g["weight_decay"] for g in hpt.param_groups(model, plan, lr=LR, weight_decay=0.1)} == {0.1}


# Each leaves every group's rate in proportion to its multiplier.
KEEP = {
    "LambdaLR": lambda opt: sched.LambdaLR(opt, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda opt: sched.MultiplicativeLR(opt, lambda t: 0.9),
    "CosineAnnealingLR": lambda opt: sched.CosineAnnealingLR(opt, STEPS),
    "CosineAnnealingWarmRestarts": lambda opt: sched.CosineAnnealingWarmRestarts(opt, 5),
    "OneCycleLR": lambda opt: sched.OneCycleLR(opt, max_lr=hpt.max_lrs(opt), total_steps=STEPS + 1),
    "StepLR": lambda opt: sched.StepLR(opt, 3),
    "ExponentialLR": lambda opt: sched.ExponentialLR(opt, 0.9),
    "LinearLR": lambda opt: sched.LinearLR(opt, 0.1, total_iters=5),
    "PolynomialLR": lambda opt: sched.PolynomialLR(opt, STEPS),
    "warm-up, then cosine": lambda opt: sched.SequentialLR(
        opt, [sched.LinearLR(opt, 0.1, total_iters=4), sched.CosineAnnealingLR(opt, STEPS - 4)], [4]
    ),
    "chained": lambda opt: sched.ChainedScheduler([sched.ConstantLR(opt, 0.5, 3), sched.ExponentialLR(opt, 0.9)]),
}


def run(optimizer, scheduler, model) -> list[float]:
    """The base rate (lr over its multiplier, the same in all groups) at every step."""
    rates = []
    for _ in range(STEPS):
        own = [group["lr"] / group["lr_mult"] for group in optimizer.param_groups]
        assert max(own) == pytest.approx(min(own), rel=1e-9)
        rates.append(own[0])
        step(model, optimizer)
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", sorted(KEEP))
def test_schedulers_keep_the_multipliers(name: str) -> None:
    """And the base rate follows the schedule that plain torch would give it."""
    model, optimizer = built()
    plain_model = seeded(MLP, 8)
    plain = torch.optim.AdamW(plain_model.parameters(), lr=LR)
    plain.param_groups[0]["lr_mult"] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # SequentialLR steps its parts at construction
        expected = run(plain, KEEP[name](plain), plain_model)
        found = run(optimizer, KEEP[name](optimizer), model)
    assert found == pytest.approx(expected, rel=1e-9)


def test_reduce_on_plateau_keeps_them() -> None:
    model, optimizer = built()
    scheduler = sched.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for _ in range(4):
        step(model, optimizer)
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] < LR / 2


LOSE = {
    "OneCycleLR with one rate": lambda opt: sched.OneCycleLR(opt, max_lr=LR, total_steps=STEPS),
    "cosine to a common floor": lambda opt: sched.CosineAnnealingLR(opt, STEPS, eta_min=LR / 2),
    "CyclicLR with one rate": lambda opt: sched.CyclicLR(opt, LR / 10, LR, cycle_momentum=False),
}


@pytest.mark.parametrize("name", sorted(LOSE))
def test_schedulers_that_overwrite_them_are_an_error_at_the_next_step(name: str) -> None:
    model, optimizer = built()
    scheduler = LOSE[name](optimizer)
    with pytest.raises(hpt.UsageError, match=r"something overwrote the plan's multipliers.*set_lr.*max_lrs"):
        for _ in range(3):
            step(model, optimizer)
            scheduler.step()


def test_a_loop_that_sets_the_rate_raw_is_an_error_and_set_lr_is_the_way() -> None:
    model, optimizer = built()
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(hpt.UsageError, match=r"group with 'hidden.weight' is 0.001, but its multiplier is 0.25"):
        step(model, optimizer)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())  # nothing was stepped
    hpt.set_lr(optimizer, 3e-3)
    step(model, optimizer)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
        [3e-3 * g["lr_mult"] for g in optimizer.param_groups]
    )


def test_set_lr_fills_tensor_rates_in_place() -> None:
    model, plan = wide()
    optimizer = torch.optim.AdamW(hpt.param_groups(model, plan, lr=torch.tensor(LR)))
    kept = [group["lr"] for group in optimizer.param_groups]
    hpt.set_lr(optimizer, 1e-3)
    assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, kept, strict=True))
    assert hpt.max_lrs(optimizer) == pytest.approx([1e-3 * g["lr_mult"] for g in optimizer.param_groups])


def test_optimizers_without_a_plan_are_left_alone() -> None:
    built()  # the guard is installed
    model = seeded(MLP, 8)
    optimizer = torch.optim.SGD([{"params": [p], "lr": 0.1 * k} for k, p in enumerate(model.parameters())])
    step(model, optimizer)


def test_a_resumed_optimizer_keeps_multipliers_and_guard_and_goes_on_as_if_never_stopped() -> None:
    data = batches("mlp", 8)
    model, optimizer = built()
    scheduler = sched.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    losses(model, optimizer, data[:4])
    scheduler.step()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
    expected = losses(model, optimizer, data[4:])

    model, optimizer = built()
    scheduler = sched.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    for thing, state in zip((model, optimizer, scheduler), saved, strict=True):
        thing.load_state_dict(state)
    assert all(g["lr"] / g["lr_mult"] == pytest.approx(LR / 2) for g in optimizer.param_groups)
    assert losses(model, optimizer, data[4:]) == expected
    optimizer.param_groups[0]["lr"] = 1.0
    with pytest.raises(hpt.UsageError, match="overwrote"):
        step(model, optimizer)


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.SGD])
def test_fused_and_foreach_steps_are_the_plain_ones(cls, options) -> None:
    data = batches("mlp", 5)
    expected, found = (losses(*built(cls=cls, **o), data) for o in ({"foreach": False}, options))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_a_transformer_has_few_groups_whatever_its_depth(tied: bool) -> None:
    model = seeded(Transformer, Shape(32, depth=6, tied=tied))
    x = batches("transformer", 1)[0][0]
    plan = hpt.make_plan(model, base=seeded(Transformer, Shape(8, depth=6, tied=tied)), example_inputs=(x,))
    groups = hpt.param_groups(model, plan, lr=LR, weight_decay=0.1)
    assert len(groups) <= 8
    settings = [(g["lr"], g["weight_decay"], g["eps"]) for g in groups]
    assert len(set(settings)) == len(settings)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_bad_numbers(name: str, value: float) -> None:
    model, plan = wide()
    with pytest.raises(hpt.UsageError, match=rf"{name}={value}: must be a finite number >= 0"):
        hpt.param_groups(model, plan, **{"lr": LR, name: value})


def test_another_model_or_size_is_refused() -> None:
    _, plan = wide()
    with pytest.raises(
        hpt.UsageError, match=r"'first.weight' has shape \(16, 8\), but the plan was made for \(32, 8\)"
    ):
        hpt.param_groups(seeded(MLP, 16), plan, lr=LR)
    with pytest.raises(hpt.UsageError, match=r"does not match its plan: the plan knows no \['weight', 'bias'\]"):
        hpt.param_groups(nn.Linear(3, 3), plan, lr=LR)
