"""Deep linear networks against their differential equations, real training, and the anchors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.mechanics.saxe import (
    deep_strength,
    learning_time,
    linear_loss_curve,
    linear_modes,
    mode_sharpness,
    two_layer_strength,
)
from tests.oracles.curvature import dense_hessian
from tests.support.reference import anchors


def test_anchors() -> None:
    """S = 3, s0 = .001, tau = 1: the tabulated formula to 1e-12, the tabulated ODE to its own integration error
    1e-9."""
    table = anchors("saxe")
    ours = two_layer_strength(table["t"], 3.0, s0=1e-3)
    assert ours == pytest.approx(table["formula"], rel=1e-12)
    assert ours == pytest.approx(table["ode"], rel=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_strengths_solve_their_differential_equation(depth: int) -> None:
    """One scalar weight per layer, all equal to a: tau da/dt = a^(D-1) (S - a^D), integrated independently."""
    times, s0, tau = np.linspace(0, 6, 13), 0.02, 1.7

    def velocity(_t: float, a: np.ndarray) -> np.ndarray:
        return a ** (depth - 1) * (1.5 - a**depth) / tau

    a = solve_ivp(velocity, (0, 6), [s0 ** (1 / depth)], t_eval=times, rtol=1e-11, atol=1e-13).y[0]
    assert deep_strength(times, 1.5, depth=depth, s0=s0, tau=tau) == pytest.approx(a**depth, rel=1e-6)


def test_learning_times_invert_the_curve_and_scale_as_one_over_strength() -> None:
    times = learning_time([1.0, 2.0, 4.0], s0=1e-3, tau=50.0, fraction=0.7)
    assert two_layer_strength(times, [1.0, 2.0, 4.0], s0=1e-3, tau=50.0) == pytest.approx([0.7, 1.4, 2.8])
    assert times[0] / times[1] == pytest.approx(2.0, rel=0.15)
    assert two_layer_strength(1e9, 2.0, s0=1e-3) == pytest.approx(2.0)


def whitened(n: int, dims: int) -> np.ndarray:
    raw = np.random.default_rng(0).standard_normal((n, dims))
    return np.linalg.qr(raw)[0] * np.sqrt(n)


def linear_net(depth: int, modes, s0: float, outputs: int) -> nn.Sequential:
    """Aligned and balanced: every layer diagonal of strength s0^(1/depth) in the modes' bases."""
    inputs, rank = modes.right.shape
    layers = [
        nn.Linear(inputs if k == 0 else rank, outputs if k == depth - 1 else rank, bias=False) for k in range(depth)
    ]
    net = nn.Sequential(*layers).double()
    core = torch.eye(rank).double() * s0 ** (1 / depth)
    with torch.no_grad():
        for k, layer in enumerate(layers):
            w = core
            w = w @ torch.as_tensor(modes.right.T) if k == 0 else w
            w = torch.as_tensor(modes.left) @ w if k == depth - 1 else w
            layer.weight.copy_(w)
    return net


def half_mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * (model(batch[0]) - batch[1]).square().sum(dim=1).mean()


@pytest.mark.parametrize("depth", [2, 3])
def test_the_forecast_equals_training_a_real_network(depth: int) -> None:
    """Gradient descent at lr = .002 against the flow: losses along the run within 1% (the discretisation error, of
    order lr x sharpness ~ .002 x 2 x 2 per step)."""
    x = whitened(60, 5)
    y = x @ np.random.default_rng(1).standard_normal((5, 3)) + 0.1 * np.random.default_rng(2).standard_normal((60, 3))
    modes, s0, lr = linear_modes(x, y), 0.01, 0.002
    net, batch = linear_net(depth, modes, s0, 3), (torch.as_tensor(x), torch.as_tensor(y))
    losses = []
    for _ in range(4001):
        loss = half_mse(net, batch)
        losses.append(loss.item())
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads, strict=True):
                p -= lr * g
    at = np.arange(0, 4001, 400)
    forecast = linear_loss_curve(modes, at.astype(float), s0=s0, tau=1 / lr, depth=depth)
    assert np.array(losses)[at] == pytest.approx(forecast, rel=0.01)
    assert losses[-1] < 0.02 * losses[0] and losses[-1] > modes.unexplained


@pytest.mark.parametrize("depth", [2, 3])
def test_sharpness_at_the_solution(depth: int) -> None:
    """depth S^(2 - 2/depth) of the strongest mode is the top eigenvalue of the dense Hessian at the minimum."""
    x = whitened(40, 3)
    y = x @ np.diag([2.0, 1.0, 0.5])
    modes = linear_modes(x, y)
    net = linear_net(depth, modes, 1.0, 3)
    with torch.no_grad():
        scale = torch.as_tensor(modes.strengths ** (1 / depth))
        for k, layer in enumerate(net):
            bare = torch.diag(scale)
            bare = bare @ torch.as_tensor(modes.right.T) if k == 0 else bare
            layer.weight.copy_(torch.as_tensor(modes.left) @ bare if k == depth - 1 else bare)
    assert half_mse(net, (torch.as_tensor(x), torch.as_tensor(y))).item() < 1e-20
    hessian = dense_hessian(net, half_mse, (torch.as_tensor(x), torch.as_tensor(y)))
    assert float(torch.linalg.eigvalsh(hessian)[-1]) == pytest.approx(float(mode_sharpness(2.0, depth=depth)), rel=1e-9)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="not whitened"):
        linear_modes(np.random.default_rng(0).standard_normal((20, 3)) * 2, np.ones((20, 1)))
    with pytest.raises(UsageError, match="must be positive"):
        two_layer_strength(1.0, 1.0, s0=0.0)
    with pytest.raises(UsageError, match="need 0 < s0"):
        learning_time(1.0, s0=0.9)
