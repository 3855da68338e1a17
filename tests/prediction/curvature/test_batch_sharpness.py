"""Batch sharpness against dense matrices, its meaning for a step, and its edge in real minibatch training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.batch_sharpness import batch_sharpness
from hptransfer.prediction.curvature.curvature import sharpness
from hptransfer.prediction.curvature.operators import gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import preconditioner_at_init
from tests.oracles.curvature import dense_hessian


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def case(count: int = 5) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    return model, [(torch.randn(5, 4).double(), torch.randn(5, 2).double()) for _ in range(count)]


def test_it_equals_the_dense_ratio() -> None:
    model, batches = case()
    rows = gradients(model, mse, batches)
    dense = [dense_hessian(model, mse, b) for b in batches]
    bends = torch.stack([g @ h @ g for g, h in zip(rows, dense, strict=True)])
    found = batch_sharpness(model, mse, batches)
    assert found.value == pytest.approx(float(bends.sum() / rows.square().sum()), rel=1e-10)
    assert found.per_batch == pytest.approx((bends / rows.square().sum(dim=1)).tolist(), rel=1e-10)
    space = ParameterSpace.of(model)
    p = preconditioner_at_init(torch.optim.Adam, {}, space, rows)
    inverse = torch.diag(p.diagonal**2)
    bends = torch.stack([g @ inverse @ h @ inverse @ g for g, h in zip(rows, dense, strict=True)])
    squares = torch.stack([g @ inverse @ g for g in rows])
    preconditioned = batch_sharpness(model, mse, batches, preconditioner=p)
    assert preconditioned.value == pytest.approx(float(bends.sum() / squares.sum()), rel=1e-10)


@pytest.mark.parametrize(("factor", "falls"), [(0.99, True), (1.01, False)])
def test_two_over_it_is_where_a_step_stops_lowering_its_own_batch(factor: float, falls: bool) -> None:
    """Exactly so for a linear model with squared loss, where the second order is all there is."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    batches = [(torch.randn(3, 4).double(), torch.randn(3, 1).double()) for _ in range(6)]
    space = ParameterSpace.of(model)
    origin, rows = space.flatten(space.tensors), gradients(model, mse, batches)
    lr, change = factor * batch_sharpness(model, mse, batches).max_lr, 0.0
    for batch, g in zip(batches, rows, strict=True):
        before = mse(model, batch).item()
        space.assign(origin - lr * g)
        change += mse(model, batch).item() - before
        space.assign(origin)
    assert (change < 0) == falls


def test_its_error_covers_the_draw_of_batches() -> None:
    model, pool = case(200)
    truth = batch_sharpness(model, mse, pool).value
    draws = [batch_sharpness(model, mse, pool[10 * k : 10 * k + 10]) for k in range(20)]
    scores = np.array([(d.value - truth) / d.error for d in draws])
    assert np.square(scores).mean() < 4.0, "errors are too small"
    assert np.square(scores).mean() > 0.25, "errors are too large"


def test_small_batches_feel_more_curvature_than_the_full_loss_has() -> None:
    model, batches = case(60)
    joined = [(torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]))]
    singles = [(x[k : k + 1], y[k : k + 1]) for x, y in batches for k in range(len(x))]
    assert batch_sharpness(model, mse, singles).value > 1.5 * sharpness(model, mse, joined).value


def test_minibatch_sgd_settles_at_its_edge_while_the_full_sharpness_stays_below() -> None:
    """tanh net, batch 4 of 64, lr .2: batch sharpness hovers at 2/lr, lambda_max at .6 of it (2412.20553). At lr .1
    this task stops sharpening before the edge (.6 to .8 of it): the edge is where sharpening ends at the latest."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 64).double()[:, None]
    y = torch.sin(4 * x) + 0.5 * torch.cos(9 * x)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).double()
    opt, lr = torch.optim.SGD(model.parameters(), lr=0.2), 0.2
    batched, full = [], []
    for step in range(3000):
        rows = torch.randint(64, (4,))
        opt.zero_grad()
        mse(model, (x[rows], y[rows])).backward()
        opt.step()
        if step >= 1000 and step % 200 == 0:
            picks = [torch.randint(64, (4,)) for _ in range(100)]
            batched.append(batch_sharpness(model, mse, [(x[r], y[r]) for r in picks]).value)
            full.append(sharpness(model, mse, [(x, y)], check=False).value)
    # ten measurements of relative error ~ 5% and spread ~ 10%
    assert float(np.mean(batched)) * lr / 2 == pytest.approx(1.0, abs=0.15)
    assert float(np.mean(full)) * lr / 2 < 0.75


def test_one_batch_is_refused() -> None:
    model, batches = case()
    with pytest.raises(UsageError, match="at least 2 batches"):
        batch_sharpness(model, mse, batches[:1])
