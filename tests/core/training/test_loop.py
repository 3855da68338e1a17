"""The training loop: deterministic, paired, leaves no trace behind, and knows divergence."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import Divergence, evaluate, thin, train
from hptransfer.core.training.recipe import Scale
from tests.cases.validation import loss as mse
from tests.cases.validation import nan_loss, recipe

SCALE = Scale(width=8)


def fresh(lr: float = 0.01, **options) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = recipe.build(SCALE)
    return model, torch.optim.SGD(model.parameters(), lr=lr, **options)


def test_equals_a_loop_written_by_hand():
    model, optimizer = fresh(0.05, momentum=0.9)
    result = train(recipe, model, optimizer, scale=SCALE, seed=3)
    twin, optimizer = fresh(0.05, momentum=0.9)
    losses = []
    for step, batch in enumerate(itertools.islice(recipe.batches(SCALE, 3), recipe.steps)):
        optimizer.param_groups[0]["lr"] = 0.05 * recipe.schedule((step + 0.5) / recipe.steps)
        optimizer.zero_grad()
        loss = mse(twin, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = sum(mse(twin, batch).item() for batch in recipe.validation()) / 2
    assert result.val_loss == pytest.approx(expected, rel=1e-6)
    assert [value for _, value in result.curve] == losses and not result.diverged
    assert result.train_loss == pytest.approx(sum(losses[-2:]) / 2)


def test_same_seed_gives_the_same_run_bit_for_bit_and_another_seed_does_not():
    runs = [train(recipe, *fresh(), scale=SCALE, seed=seed) for seed in (1, 1, 2)]
    assert runs[0].curve == runs[1].curve and runs[0].val_loss == runs[1].val_loss
    assert runs[0].curve != runs[2].curve


def test_learning_rate_does_not_change_the_data_or_the_dropout():
    seen = {}
    net = nn.Sequential(nn.Dropout(0.5))

    def keep(model, batch):
        seen.setdefault(current, []).append(model(batch[0]).sum().item())
        return mse(model_in_use, batch)

    for current in (0.1, 0.001):
        model_in_use, optimizer = fresh(current)
        train(
            recipe.replace(loss=lambda _, batch: keep(net.train(), batch)), model_in_use, optimizer, scale=SCALE, seed=0
        )
    assert seen[0.1][: recipe.steps] == seen[0.001][: recipe.steps]


def test_schedule_multiplies_each_groups_own_rate_and_restores_it():
    model, _ = fresh()
    groups = [{"params": list(model[0].parameters()), "lr": 0.1}, {"params": list(model[2].parameters()), "lr": 0.4}]
    optimizer = torch.optim.SGD(groups)
    seen = []
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append([g["lr"] for g in opt.param_groups]))
    train(recipe, model, optimizer, scale=SCALE, seed=0)
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.4]
    factors = [recipe.schedule((t + 0.5) / recipe.steps) for t in range(recipe.steps)]
    assert seen == [[0.1 * f, 0.4 * f] for f in factors]


def test_mode_rates_and_random_state_are_as_before_even_after_an_exception():
    model, optimizer = fresh()
    model.eval()
    before = torch.get_rng_state()

    def stop(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, model, optimizer, scale=SCALE, seed=0, on_step=stop)
    assert not model.training and optimizer.param_groups[0]["lr"] == 0.01
    assert torch.equal(torch.get_rng_state(), before)


def test_trains_in_train_mode_and_evaluates_in_eval_mode_without_gradients():
    modes = []

    def watch(model, batch):
        modes.append((model.training, torch.is_grad_enabled()))
        return mse(model, batch)

    model, optimizer = fresh()
    train(recipe.replace(loss=watch), model.eval(), optimizer, scale=SCALE, seed=0)
    assert modes == [(True, True)] * recipe.steps + [(False, False)] * 2


def test_non_finite_loss_and_run_away_loss_are_divergence():
    nan = train(recipe.replace(loss=nan_loss), *fresh(), scale=SCALE, seed=0)
    assert nan.diverged and nan.val_loss == math.inf and nan.train_loss == math.inf and nan.steps == 1
    away = train(recipe.replace(steps=200), *fresh(lr=50.0), scale=SCALE, seed=0)
    assert away.diverged and away.steps < 200
    bad_end = train(
        recipe.replace(loss=lambda m, b: mse(m, b) * (1.0 if m.training else math.nan)), *fresh(), scale=SCALE, seed=0
    )
    assert bad_end.diverged and bad_end.val_loss == math.inf and bad_end.steps == recipe.steps


@pytest.mark.parametrize(
    ("losses", "diverged_at"),
    [
        ([1.0] * 300, None),  # learns nothing
        ([1.0, 10.0, 10.0] + [1.0] * 297, None),  # a spike that it recovers from
        ([2.0] + [3.9] * 299, None),  # stays under twice the start
        ([2.0] + [4.2] * 299, 29),  # over it for a tenth of the run
        ([2.0, math.inf], 1),
        ([-3.0] + [-0.5] * 299, None),  # a negative loss may rise by its own size
        ([-3.0] + [0.5] * 299, 29),
    ],
)
def test_divergence_is_what_it_says(losses, diverged_at):
    judge = Divergence(300)
    assert next((i for i, loss in enumerate(losses) if judge(loss)), None) == diverged_at


def test_curve_is_thin_and_keeps_the_mean():
    curve = thin([float(i) for i in range(1000)])
    assert len(curve) == 40 and curve[-1][0] == 1000
    assert sum(v for _, v in curve) / 40 == pytest.approx(499.5)
    assert thin([3.0, 4.0]) == ((1, 3.0), (2, 4.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batches": lambda scale, seed: iter(list(itertools.islice(recipe.batches(scale, seed), 5)))},
            "after 5 of 20",
        ),
        ({"validation": list}, "no batches"),
        ({"schedule": lambda p: -p}, "finite and not negative"),
        ({"schedule": lambda p: math.nan}, "finite and not negative"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_a_usage_error(changes, message):
    with pytest.raises(UsageError, match=message):
        train(recipe.replace(**changes), *fresh(), scale=SCALE, seed=0)


def test_evaluate_takes_nested_batches():
    model, _ = fresh()
    nested = recipe.replace(
        loss=lambda m, b: mse(m, (b["in"][0], b["out"])),
        validation=lambda: [{"in": [x], "out": y, "name": "part"} for x, y in recipe.validation()],
    )
    assert evaluate(nested, model, "cpu") == evaluate(recipe, model, "cpu")
