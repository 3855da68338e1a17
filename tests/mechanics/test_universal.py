"""Catapult, edge of stability and power laws: closed maps against real networks and exact sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.mechanics.catapult import catapult_regime, simulate_catapult
from hptransfer.mechanics.edge_of_stability import EdgeTrace, probe_edge
from hptransfer.mechanics.eigenlearning import eigenlearning
from hptransfer.mechanics.power_law import loss_after, sample_exponent, step_exponent
from hptransfer.prediction.curvature.curvature import sharpness
from hptransfer.prediction.curvature.operators import gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import preconditioner_from_state
from hptransfer.prediction.quadratic.quadratic import NoisyQuadratic, final_losses
from hptransfer.prediction.quadratic.stability import gd, limit, rule_for


@pytest.mark.parametrize("eta_lambda", [1.0, 2.7, 3.9, 4.3])
def test_the_catapult_map_is_gradient_descent_on_the_network(eta_lambda: float) -> None:
    """f = v.u/sqrt(n), loss f^2/2, by autograd, against the two-variable map: to rounding, in every regime."""
    torch.manual_seed(0)
    n = 60
    u, v = torch.randn(2, n, dtype=torch.float64).requires_grad_()
    u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
    curvature = float((u.square().sum() + v.square().sum()).detach() / n)
    lr = eta_lambda / curvature
    begin = float((u @ v).detach() / n**0.5)
    run = simulate_catapult(lr, curvature, width=n, f0=begin, steps=12)
    for t in range(12 if np.isfinite(run.f[-1]) else int(np.argmax(np.isinf(run.f)))):
        f = u @ v / n**0.5
        bend = float((u.square().sum() + v.square().sum()).detach() / n)
        assert f.item() == pytest.approx(run.f[t], rel=1e-8) and bend == pytest.approx(run.curvature[t], rel=1e-8)
        gu, gv = torch.autograd.grad(f.square() / 2, (u, v))
        with torch.no_grad():
            u -= lr * gu
            v -= lr * gv


def test_the_three_regimes() -> None:
    """Below 2 curvature stays put; from 2 to 4 the run settles with lr lambda < 2; above 4 it diverges."""
    lazy, thrown, lost = (simulate_catapult(eta, 1.0, width=1e4) for eta in (1.5, 3.0, 4.5))
    assert lazy.converged and abs(lazy.curvature[-1] - 1) < 1e-2
    assert thrown.converged and 3.0 * thrown.curvature[-1] < 2 and abs(thrown.f).max() > 10
    assert not lost.converged and np.isinf(lost.f[-1])
    assert [catapult_regime(eta, 1.0) for eta in (1.5, 3.0, 4.5)] == ["lazy", "catapult", "divergent"]
    with pytest.raises(UsageError, match="must be positive"):
        simulate_catapult(0.0, 1.0, width=10)


def regression() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 20).double()[:, None]
    y = torch.sin(4 * x) + 0.5 * torch.cos(9 * x)
    model = nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    return model, (x, y)


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def trace(optimizer: type[torch.optim.Optimizer], lr: float, steps: int, every: int, **options: object) -> EdgeTrace:
    model, batch = regression()
    opt = optimizer(model.parameters(), lr=lr, **options)
    space = ParameterSpace.of(model)

    def step() -> float:
        opt.zero_grad()
        loss = mse(model, batch)
        loss.backward()
        opt.step()
        return loss.item()

    def bend() -> float:
        p = preconditioner_from_state(opt, space) if opt.state and optimizer is not torch.optim.SGD else None
        return sharpness(model, mse, [batch], preconditioner=p, tolerance=1e-2, check=False).value

    if optimizer is not torch.optim.SGD:
        step()
    return probe_edge(step, bend, lr=lr, limit=limit(rule_for(optimizer, options)), steps=steps, every=every)


def test_full_batch_gd_sharpens_to_the_edge_and_stays() -> None:
    """tanh network, GD at lr .1: sharpness rises several-fold to 2/lr and hovers there, while the loss still
    falls."""
    found = trace(torch.optim.SGD, 0.1, 3000, 50)
    assert found.sharpening > 1.5 and found.arrival is not None
    assert found.place() == "at the edge"
    ratio, error = found.plateau()
    assert abs(ratio - 1) < 0.15 and error < 0.1
    assert found.losses[-1] < 0.5 * found.losses[len(found.losses) // 2]


def test_a_small_lr_stays_below_the_edge() -> None:
    found = trace(torch.optim.SGD, 0.005, 600, 60)
    assert found.place() == "below" and found.arrival is None


def test_adam_hovers_near_its_own_edge() -> None:
    """lambda_max(P^-1 H) against 38/lr for b1 = .9 (2207.14484): within a factor 2 late in full-batch training."""
    found = trace(torch.optim.Adam, 3e-3, 2000, 50, betas=(0.9, 0.99))
    ratio, _ = found.plateau()
    assert 0.5 < ratio < 2.0


def test_probe_bookkeeping() -> None:
    losses = iter([1.0, 0.5, float("nan")])
    found = probe_edge(lambda: next(losses), lambda: 7.0, lr=0.1, limit=2.0, steps=10)
    assert list(found.steps) == [0, 1] and found.ratio == pytest.approx(0.35)
    with pytest.raises(UsageError, match="not finite at the first step"):
        probe_edge(lambda: float("nan"), lambda: 1.0, lr=0.1, limit=2.0, steps=3)
    with pytest.raises(UsageError, match="must be positive"):
        probe_edge(lambda: 1.0, lambda: 1.0, lr=0.1, limit=2.0, steps=0)


@pytest.mark.parametrize(("a", "b"), [(1.5, 1.5), (1.0, 1.25), (1.2, 2.0)])
def test_the_loss_of_gradient_descent_is_a_power_law_in_steps(a: float, b: float) -> None:
    """Against the exact sum over 2 x 10^6 modes: constant and exponent within 2% at T = 300 to 3000."""
    index = np.arange(1, 2_000_001, dtype=np.float64)
    tail = index[-1] ** (1 - b) / (b - 1) / 2
    exact = []
    for steps in (300, 3000):
        value = 0.5 * float((index**-b * (1 - 1.2 * index**-a) ** (2 * steps)).sum()) + tail
        exact.append(value)
        assert loss_after(a, b, lr=1.2, steps=steps) == pytest.approx(value, rel=0.02)
    assert np.log10(exact[0] / exact[1]) == pytest.approx(step_exponent(a, b), rel=0.02)
    short = final_losses(NoisyQuadratic.power_law(a, b, modes=2000), [1.2], np.ones(30), rule=gd())[0]
    assert short < loss_after(a, b, lr=1.2, steps=30) * 1.05


@pytest.mark.parametrize(("a", "b"), [(1.5, 1.8), (1.5, 2.5), (1.2, 5.0)])
def test_the_test_error_is_a_power_law_in_samples(a: float, b: float) -> None:
    """Eigenlearning with 2 x 10^5 modes between n = 100 and 1000: the exponent within 6% (corrections of order
    1/n)."""
    index = np.arange(1, 200_001, dtype=np.float64)
    errors = [eigenlearning(index**-a, n).test_error(index**-b) for n in (100, 1000)]
    assert np.log10(errors[0] / errors[1]) == pytest.approx(sample_exponent(a, b), rel=0.06)


def test_power_law_refusals() -> None:
    with pytest.raises(UsageError, match="b > 1"):
        step_exponent(1.0, 1.0)
    with pytest.raises(UsageError, match="trace-class"):
        sample_exponent(1.0, 2.0)
    with pytest.raises(UsageError, match="lr < 2"):
        loss_after(1.5, 1.5, lr=2.0, steps=10)


def test_gradients_are_unmoved_by_probing() -> None:
    """The probe's sharpness leaves the trajectory as it would have been: same final loss with and without
    measuring."""
    finals = []
    for every in (1, 1000):
        model, batch = regression()

        def step(model=model, batch=batch) -> float:
            space = ParameterSpace.of(model)
            before = mse(model, batch).item()
            space.assign(space.flatten(space.tensors) - 0.05 * gradients(model, mse, [batch])[0])
            return before

        def bend(model=model, batch=batch) -> float:
            return sharpness(model, mse, [batch], check=False).value

        probe_edge(step, bend, lr=0.05, limit=2.0, steps=30, every=every)
        finals.append(mse(model, batch).item())
    assert finals[0] == finals[1]
