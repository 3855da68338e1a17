"""Accumulation, clipping, decay filters and autocast: each equals a loop written by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from hptransfer.checks.planned import PlannedModels
from hptransfer.core.errors import UsageError
from hptransfer.core.training.loop import train
from hptransfer.core.training.recipe import Scale
from tests.cases.validation import double
from tests.cases.validation import loss as mse

SCALE = Scale(width=8)


def trained(recipe, **options):
    """(result, weights) of SGD from one start."""
    torch.manual_seed(0)
    model = recipe.build(SCALE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, **options)
    return train(recipe, model, optimizer, scale=SCALE, seed=3), dict(model.named_parameters())


def halved(scale, seed):
    """Each batch of the case in two halves, one after the other."""
    for inputs, targets in double.batches(scale, seed):
        yield from zip(inputs.chunk(2), targets.chunk(2), strict=True)


def test_two_accumulated_halves_are_one_whole_batch():
    whole, weights = trained(double)
    parts, accumulated = trained(double.replace(batches=halved, accumulate=2))
    assert parts.steps == whole.steps and parts.val_loss == pytest.approx(whole.val_loss, rel=1e-12)
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-12)
    for name, weight in weights.items():
        torch.testing.assert_close(accumulated[name], weight, rtol=1e-12, atol=1e-14)


def test_the_whole_gradient_is_clipped_to_its_bound():
    bound = 0.01
    _, clipped = trained(double.replace(clip_norm=bound, steps=5, schedule=lambda progress: 1.0))
    torch.manual_seed(0)
    model = double.build(SCALE)
    for batch in itertools.islice(double.batches(SCALE, 3), 5):
        gradients = torch.autograd.grad(mse(model, batch), list(model.parameters()))
        norm = sum(g.square().sum() for g in gradients).sqrt()
        assert norm > bound, "the case must clip"
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.05 * gradient * bound / (norm + 1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(clipped[name], parameter, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scheme", ["mup", None])
def test_decay_applies_to_what_the_recipe_says(scheme):
    recipe = double.replace(
        optimizer=torch.optim.AdamW,
        optimizer_options={"weight_decay": 0.1},
        decays=lambda name, parameter: parameter.dim() > 1,
    )
    models = PlannedModels(recipe)
    plan = models.plan(scheme, SCALE) if scheme else None
    model = models.model(plan, SCALE, seed=0)
    optimizer = models.optimizer(models.groups(plan, model, lr=0.01))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (decay[id(parameter)] > 0) == (parameter.dim() > 1), name


def test_autocast_runs_the_forward_in_bfloat16_and_keeps_the_weights():
    seen = []

    def watched(model, batch):
        inputs, targets = batch
        outputs = model(inputs.float())
        seen.append(outputs.dtype)
        return (outputs - targets).square().mean()

    recipe = double.replace(build=lambda scale: double.build(scale).float(), loss=watched, autocast=torch.bfloat16)
    result, weights = trained(recipe)
    assert set(seen) == {torch.bfloat16} and not result.diverged
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    "changes",
    [{"accumulate": 0}, {"accumulate": 1.5}, {"accumulate": True}, {"clip_norm": 0.0}, {"autocast": torch.float16}],
)
def test_settings_that_cannot_be_are_refused_by_name(changes):
    with pytest.raises(UsageError, match=next(iter(changes))):
        double.replace(**changes)
