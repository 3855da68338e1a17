"""Kernel-regime training: closed forms against loops, against a network that is linear in its parameters, against
wide ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.kernels.empirical_ntk import empirical_ntk
from hptransfer.prediction.kernels.kernel_regime import KernelRegime, max_lr
from hptransfer.prediction.kernels.ntk import act, dense, infinite_width
from hptransfer.prediction.quadratic.stability import ema, gd, heavy_ball, nesterov
from tests.oracles.curvature import NTKLinear

RNG = np.random.default_rng(0)
X, XT = RNG.standard_normal((9, 4)), RNG.standard_normal((5, 4))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1)
LAYERS = [dense(1.5, 0.1), act("gelu"), dense(2.0)]
TRAIN, TEST = infinite_width(LAYERS, X), infinite_width(LAYERS, XT, X)


def test_flow_equals_the_integrated_differential_equation() -> None:
    regime = KernelRegime.of(TRAIN.ntk, Y, initial=0.3 * np.ones_like(Y))
    both = np.concatenate([TRAIN.ntk, TEST.ntk])
    begin = np.concatenate([0.3 * np.ones_like(Y), np.full((5, 2), -0.2)])

    def velocity(_t: float, flat: np.ndarray) -> np.ndarray:
        f = flat.reshape(14, 2)
        return (-both @ (f[:9] - Y) / Y.size).ravel()

    for time in (0.5, 5.0, 60.0):
        end = solve_ivp(velocity, (0, time), begin.ravel(), rtol=1e-10, atol=1e-12).y[:, -1].reshape(14, 2)
        assert np.allclose(regime.flow_train(time), end[:9], atol=1e-7)
        assert np.allclose(regime.flow_test(TEST.ntk, time, initial=begin[9:]), end[9:], atol=1e-7)
    assert np.allclose(regime.flow_train(math.inf), Y, atol=1e-8)
    ridgeless = -0.2 + TEST.ntk @ np.linalg.solve(TRAIN.ntk, Y - 0.3)
    assert np.allclose(regime.flow_test(TEST.ntk, math.inf, initial=begin[9:]), ridgeless, atol=1e-7)


@pytest.mark.parametrize("rule", [gd(), heavy_ball(0.8), nesterov(0.8), ema(0.9)], ids=lambda r: r.name)
@pytest.mark.parametrize("loss", ["half-mse", "mse"])
def test_steps_equal_a_plain_loop(rule, loss: str) -> None:
    regime = KernelRegime.of(TRAIN.ntk, Y, loss=loss)
    lr, factor = 0.6 * regime.max_lr(rule), {"half-mse": 1.0, "mse": 2.0}[loss]
    f, g, m = np.zeros((9, 2)), np.zeros((5, 2)), np.zeros((9, 2))
    for _ in range(25):
        slope = factor * (f - Y) / Y.size
        step = rule.p * slope + rule.q * m
        m = rule.b * m + rule.a * slope
        f, g = f - lr * TRAIN.ntk @ step, g - lr * TEST.ntk @ step
    assert np.allclose(regime.steps_train(lr, 25, rule=rule), f, atol=1e-10)
    assert np.allclose(regime.steps_test(TEST.ntk, lr, 25, rule=rule), g, atol=1e-10)
    assert regime.train_loss(f) == pytest.approx(factor / 2 * np.square(f - Y).mean())


@pytest.mark.parametrize("rule", [gd(), heavy_ball(0.9), ema(0.9)], ids=lambda r: r.name)
def test_the_maximal_lr_splits_training_from_divergence(rule) -> None:
    regime = KernelRegime.of(TRAIN.ntk, Y)
    edge = regime.max_lr(rule)
    below, above = (regime.train_loss(regime.steps_train(s * edge, 3000, rule=rule)) for s in (0.99, 1.02))
    assert below < regime.train_loss(regime.initial) < above
    momentum = max_lr(2.0, examples=9, outputs=2, rule=heavy_ball(0.9))
    assert momentum == pytest.approx(2 * 1.9 * 9 * 2 / 2.0)
    assert max_lr(2.0, examples=9, outputs=2, rule=heavy_ball(0.9), loss="mse") == pytest.approx(momentum / 2)


def test_a_linear_in_parameters_network_follows_its_kernel_exactly() -> None:
    """torch SGD with momentum on fixed random features: empirical kernel, then the closed form, to 1e-9."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(4, 30), nn.Tanh()).double().requires_grad_(False)
    model = nn.Sequential(features, nn.Linear(30, 2).double())
    x, xt, y = (torch.as_tensor(v) for v in (X, XT, Y))
    with torch.no_grad():
        begin, begin_test = model(x).numpy(), model(xt).numpy()
    regime = KernelRegime.of(empirical_ntk(model, x).numpy(), Y, initial=begin, loss="mse")
    lr = 0.5 * regime.max_lr(heavy_ball(0.5))
    opt = torch.optim.SGD(model[1].parameters(), lr=lr, momentum=0.5)
    for _ in range(40):
        opt.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()
    cross = empirical_ntk(model, xt, x).numpy()
    forecast = regime.steps_test(cross, lr, 40, rule=heavy_ball(0.5), initial=begin_test)
    assert np.allclose(forecast, model(xt).detach().numpy(), atol=1e-9)


def test_wide_networks_approach_the_infinite_ensembles_forecast() -> None:
    """60 networks of width 600 trained by GD: mean test output and its variance over seeds against the closed forms;
    the mean within 4 standard errors + the 1/sqrt(width) drift of a nonlinear net (.05), the variance within
    chi^2_60 (4 x 18%)."""
    lr_steps, rule = 40, gd()
    y = Y[:, :1]
    regime = KernelRegime.of(TRAIN.ntk, y)
    lr = 0.5 * regime.max_lr(rule)
    x, xt, target = (torch.as_tensor(v) for v in (X, XT, y))
    found = []
    for seed in range(60):
        torch.manual_seed(seed)
        net = nn.Sequential(NTKLinear(4, 600, 1.5, 0.1), nn.GELU(), NTKLinear(600, 1, 2.0))
        opt = torch.optim.SGD(net.parameters(), lr=lr)
        for _ in range(lr_steps):
            opt.zero_grad()
            (0.5 * (net(x) - target).square().mean()).backward()
            opt.step()
        found.append(net(xt).detach().numpy()[:, 0])
    outputs = np.stack(found)
    mean = regime.steps_test(TEST.ntk, lr, lr_steps)[:, 0]
    error = outputs.std(axis=0, ddof=1) / np.sqrt(60)
    assert (abs(outputs.mean(axis=0) - mean) < 4 * error + 0.05).all()
    variance = regime.flow_variance(TEST.ntk, lr * lr_steps, nngp=TRAIN.nngp, test_nngp=TEST.nngp, test_self=TEST.self1)
    assert (abs(outputs.var(axis=0, ddof=1) / variance - 1) < 4 * np.sqrt(2 / 59) + 0.05).all()


def test_refusals() -> None:
    with pytest.raises(UsageError, match="need \\(n, n"):
        KernelRegime.of(TRAIN.ntk, Y[:5])
    with pytest.raises(UsageError, match="not symmetric"):
        KernelRegime.of(TRAIN.ntk + np.triu(np.ones((9, 9)), 1), Y)
    with pytest.raises(UsageError, match="is no kernel"):
        KernelRegime.of(-TRAIN.ntk, Y)
    with pytest.raises(UsageError, match="choose one of"):
        KernelRegime.of(TRAIN.ntk, Y, loss="huber")
    regime = KernelRegime.of(TRAIN.ntk, Y)
    with pytest.raises(UsageError, match="cannot be negative"):
        regime.flow_train(-1.0)
    with pytest.raises(UsageError, match="train inputs"):
        regime.flow_test(TEST.ntk.T, 1.0)
    with pytest.raises(UsageError, match="no constant step matrix"):
        regime.steps_train(0.1, 3, rule=ema(0.9, corrected=True))
    with pytest.raises(UsageError, match="need > 0"):
        max_lr(0.0, examples=3)
