"""Variance and correlation maps against wide random networks, and per-layer init stds against what they produce."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.inits.inits import edge_of_chaos
from hptransfer.prediction.inits.signal import fixed_correlation, measure_signal, propagate
from hptransfer.prediction.inits.stack_init import forecast_stack, stack_init


def pair(shape: tuple[int, ...], rho: float) -> tuple[Tensor, Tensor]:
    """Two unit-variance inputs with exactly this correlation, entry by entry in expectation."""
    one, two = torch.randn(2, *shape).double()
    return one, rho * one + math.sqrt(1 - rho**2) * two


def random_net(act: nn.Module, width: int, depth: int, weight_var: float, bias_var: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth + 1):
        layer = nn.Linear(width, width).double()
        nn.init.normal_(layer.weight, std=math.sqrt(weight_var / width))
        nn.init.normal_(layer.bias, std=math.sqrt(bias_var))
        layers += [layer, act]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("act", "weight_var", "bias_var"),
    [
        (nn.Tanh(), 1.76, 0.05),
        (nn.Tanh(), 2.5, 0.3),
        (nn.GELU(), 2.35, 0.0),
        (nn.ReLU(), 2.0, 0.0),
        (nn.SiLU(), 2.0, 0.5),
    ],
    ids=["tanh critical", "tanh chaotic", "gelu", "relu", "silu with bias"],
)
def test_the_maps_forecast_wide_random_networks(act: nn.Module, weight_var: float, bias_var: float) -> None:
    """Mean over 8 nets of width 300. Each layer adds a relative fluctuation of about sqrt(c/width), c <= 5 (the
    kurtosis of relu^2), so at layer l the mean of 8 is within 4 sqrt(5 l/(300 x 8)) of the forecast."""
    depth = 6
    measured_q, measured_rho = [], []
    for seed in range(8):
        torch.manual_seed(seed)
        net = random_net(act, 300, depth, weight_var, bias_var)
        found = measure_signal(net, *pair((40, 300), 0.4))
        measured_q.append(found.q)
        measured_rho.append(found.rho)
    q, rho = np.mean(measured_q, axis=0), np.mean(measured_rho, axis=0)
    forecast = propagate(
        act,
        depth=depth,
        weight_var=weight_var,
        bias_var=bias_var,
        q0=weight_var + bias_var,
        rho0=(0.4 * weight_var + bias_var) / (weight_var + bias_var),
    )
    layers = np.arange(1, depth + 2)
    slack = 4 * np.sqrt(5 * layers / (300 * 8))
    assert (abs(q / forecast.q - 1) < slack).all()
    assert (abs(rho - forecast.rho) < slack).all()


@pytest.mark.parametrize(("weight_var", "phase"), [(1.4, "ordered"), (2.6, "chaotic")])
def test_gradients_shrink_or_grow_as_chi_says(weight_var: float, phase: str) -> None:
    """tanh, width 300, 10 layers, mean over 10 nets of the squared gradient's ratio, first to last."""
    ratios = []
    forecast = propagate(torch.tanh, depth=10, weight_var=weight_var, bias_var=0.05, q0=weight_var + 0.05)
    for seed in range(10):
        torch.manual_seed(seed)
        net = random_net(nn.Tanh(), 300, 10, weight_var, 0.05)
        pre: list[Tensor] = []
        for layer in net:
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda _m, _a, out, pre=pre: pre.append(out))
        net(torch.randn(20, 300).double())
        first, last = torch.autograd.grad((pre[-1] * torch.randn(20, 300)).sum(), [pre[0], pre[-1]])
        ratios.append(float(first.square().mean() / last.square().mean()))
    # ten layers, each with relative fluctuation sqrt(3/300): e^(+-4 sqrt(10 x 3/300/10))
    assert abs(math.log(np.mean(ratios) / forecast.gradient_growth)) < 0.4
    assert (forecast.chi_1 < 1) == (phase == "ordered")


def test_phases_of_the_correlation_map() -> None:
    """Ordered: everything converges to 1 at rate chi_1; chaotic: to a rho* < 1; critical: chi_1 = 1, depth scale
    infinite."""
    ordered = propagate(torch.tanh, depth=40, weight_var=1.0, bias_var=0.05, rho0=0.1)
    assert ordered.rho[-1] > 0.999
    late = (1 - ordered.rho[31]) / (1 - ordered.rho[30])
    assert late == pytest.approx(ordered.chi_1, rel=1e-2)
    chaotic = propagate(torch.tanh, depth=60, weight_var=3.0, bias_var=0.05, rho0=0.9)
    fixed, slope = fixed_correlation(torch.tanh, weight_var=3.0, bias_var=0.05, q=chaotic.q[-1])
    assert 0 < fixed < 0.9 and 0 <= slope < 1
    gap = chaotic.rho - fixed
    assert gap[-1] < 0.05 * gap[0] and gap[-1] / gap[-2] == pytest.approx(slope, abs=0.01)
    point = edge_of_chaos(torch.tanh, bias_var=0.05)
    critical = propagate(torch.tanh, depth=3, weight_var=point.weight_var, bias_var=0.05, q0=point.q)
    assert critical.chi_1 == pytest.approx(1.0, abs=1e-9) and critical.depth_scale > 1e8
    assert critical.q == pytest.approx(point.q, rel=1e-9)


def test_residual_branches_slow_the_maps() -> None:
    """alpha^2 = 1/L: variance and gradients stay O(1) at any depth, where the plain net's vanish or blow up."""
    for depth in (10, 60):
        residual = propagate(F.relu, depth=depth, weight_var=2.0, branch=depth**-0.5, rho0=0.3)
        assert residual.q[-1] == pytest.approx((1 + 1 / depth) ** depth, rel=1e-9)
        assert residual.gradient_growth == pytest.approx((1 + 1 / depth) ** depth, rel=1e-9)
        assert residual.rho[-1] < 0.6
    assert propagate(F.relu, depth=60, weight_var=2.0, rho0=0.3).rho[-1] > 0.99


def mixed_stack() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(400, 600),
        nn.GELU(),
        nn.Sequential(nn.Linear(600, 500), nn.LayerNorm(500), nn.Tanh(), nn.Dropout(0.3)),
        nn.Linear(500, 700, bias=False),
        nn.RMSNorm(700),
        nn.ReLU(),
        nn.LayerNorm(700),
        nn.Linear(700, 300),
    ).double()


@pytest.mark.parametrize("training", [True, False])
def test_stack_init_gives_every_layer_the_asked_variance(training: bool) -> None:
    torch.manual_seed(0)
    model = mixed_stack().train(training)
    stds = stack_init(model, q=1.5, bias_std=0.3)
    assert set(stds) == {n for n, _ in model.named_parameters() if "norm" not in n} - {
        "2.1.weight", "2.1.bias", "4.weight", "6.weight", "6.bias",
    }  # fmt: skip
    for name, std in stds.items():
        nn.init.normal_(model.get_parameter(name), std=std)
    found = measure_signal(model, *pair((60, 400), 0.3))
    # widths of 300 to 700: relative fluctuation ~ sqrt(3 x 4 layers/300) = 20% at most, seen over one draw of the
    # weights
    assert found.q == pytest.approx(1.5, rel=0.2)


def test_the_stack_forecast_equals_measurement_through_mixed_layers() -> None:
    torch.manual_seed(0)
    model = mixed_stack().eval()
    stds = stack_init(model, q=1.0, bias_std=0.2)
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        for name, std in stds.items():
            nn.init.normal_(model.get_parameter(name), std=std)
        measured = measure_signal(model, *pair((60, 400), 0.3))
        forecast = forecast_stack(model, input_second_moment=1.0, input_correlation=0.3)
        assert measured.names == tuple(layer.name for layer in forecast)
        found.append((measured.q / [s.q for s in forecast], measured.rho - [s.rho for s in forecast]))
    ratios, gaps = (np.mean(column, axis=0) for column in zip(*found, strict=True))
    assert ratios == pytest.approx(1.0, abs=0.1)
    assert gaps == pytest.approx(0.0, abs=0.06)


def test_convolutions_use_their_own_fan_in() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(64, 128, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="circular", groups=2),
        nn.Flatten(),
    ).double()
    stds = stack_init(model)
    assert stds["0.weight"] == pytest.approx(1 / math.sqrt(64 * 9))
    assert stds["2.weight"] == pytest.approx(math.sqrt(2 / (64 * 9)))
    for name, std in stds.items():
        nn.init.normal_(model.get_parameter(name), std=std) if std else nn.init.zeros_(model.get_parameter(name))
    found = measure_signal(model, *pair((8, 64, 8, 8), 0.3))
    assert found.q == pytest.approx(1.0, rel=0.15)


def test_batch_norm_resets_the_variance_but_leaves_no_correlation_forecast() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 5))
    assert stack_init(model)["3.weight"] == pytest.approx(math.sqrt(2 / 20))
    assert math.isnan(forecast_stack(model, input_second_moment=1.0, input_correlation=0.5)[-1].rho)


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean(dim=-1, keepdim=True)


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"1 \(MaxPool1d\)"):
        stack_init(nn.Sequential(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2)))
    with pytest.raises(UsageError, match=r"1 \(Gate\).*not elementwise"):
        stack_init(nn.Sequential(nn.Linear(3, 4), Gate()))
    with pytest.raises(UsageError, match="must follow a linear"):
        stack_init(nn.Sequential(nn.ReLU(), nn.Linear(3, 4)))
    with pytest.raises(UsageError, match="must be below q"):
        stack_init(nn.Sequential(nn.Linear(3, 4)), q=1.0, bias_std=1.0)
    with pytest.raises(UsageError, match="need depth >= 1"):
        propagate(torch.tanh, depth=0, weight_var=1.0)
    with pytest.raises(UsageError, match="must run once"):
        measure_signal(nn.ReLU(), torch.ones(2, 3), torch.ones(2, 3))
