"""Gaussian expectations, critical initialisation and gains: anchors, closed forms, Monte Carlo and real wide
networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.inits.inits import depth_balanced, edge_of_chaos, residual_scale, variance_preserving
from hptransfer.prediction.kernels import dual
from hptransfer.prediction.kernels.gaussian import (
    activation,
    mean,
    pair_moment,
    pair_slope_moment,
    second_moment,
    slope_moment,
)
from tests.oracles.curvature import gaussian_expectation
from tests.support.reference import anchors

FUNCTIONS = {"tanh": torch.tanh, "erf": torch.erf, "relu": F.relu, "gelu": F.gelu, "silu": F.silu}


def test_anchors() -> None:
    for key, (weight_var, second) in anchors("edge_of_chaos").items():
        name = key.split(",")[0].split(":")[0]
        if "sb2" in key:
            found = edge_of_chaos(FUNCTIONS[name], bias_var=float(key.split("=")[1]))
            assert (found.weight_var, found.q) == pytest.approx((weight_var, second), abs=6e-6), key
            assert found.chi == pytest.approx(1.0, abs=1e-10)
        else:
            found = variance_preserving(FUNCTIONS[name])
            assert (found.weight_var, found.chi) == pytest.approx((weight_var, second), abs=6e-6), key


def test_known_gains() -> None:
    """He 2 for ReLU, 2/(1 + s^2) for leaky ReLU, 1 for linear; torch's own calculate_gain for the same."""
    assert variance_preserving(nn.ReLU()).weight_var == pytest.approx(2.0, rel=1e-12)
    leaky = variance_preserving(nn.LeakyReLU(0.2))
    assert leaky.gain == pytest.approx(nn.init.calculate_gain("leaky_relu", 0.2), rel=1e-12)
    assert leaky.any_q and leaky.chi == pytest.approx(1.0)
    assert variance_preserving(lambda z: z).weight_var == pytest.approx(1.0, rel=1e-12)
    assert edge_of_chaos(F.relu).weight_var == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(
    ("function", "kinks"),
    [
        (F.relu, (0.0,)),
        (F.hardtanh, (-1.0, 1.0)),
        (F.relu6, (0.0, 6.0)),
        (F.hardswish, (-3.0, 3.0)),
        (nn.PReLU(), (0.0,)),
        (F.gelu, ()),
        (torch.sin, ()),
        (F.softplus, ()),
        (lambda z: (z - 0.3).abs(), (0.3,)),
    ],
)
def test_kinks_are_found(function, kinks: tuple[float, ...]) -> None:
    assert activation(function).kinks == pytest.approx(kinks, abs=1e-8)


def test_single_moments_in_closed_form() -> None:
    """sin and powers: E sin^2 = (1 - e^-2q)/2, E |z| = sqrt(2q/pi), E relu^2 = q/2; also at tiny and huge
    variances."""
    for q in (1e-6, 0.3, 1.0, 25.0, 1e4):
        assert mean(activation(torch.abs), q) == pytest.approx(math.sqrt(2 * q / math.pi), rel=1e-12)
        assert second_moment(activation(F.relu), q) == pytest.approx(q / 2, rel=1e-12)
        assert slope_moment(activation(F.relu), q) == pytest.approx(0.5, rel=1e-12)
    for q in (1e-3, 1.0, 9.0):
        assert second_moment(activation(torch.sin), q) == pytest.approx((1 - math.exp(-2 * q)) / 2, rel=1e-10)
        assert slope_moment(activation(torch.sin), q) == pytest.approx((1 + math.exp(-2 * q)) / 2, rel=1e-12)
    assert second_moment(activation(F.hardtanh), 1e6) == pytest.approx(1.0, abs=2e-3)
    assert second_moment(activation(F.softplus), 0.0) == pytest.approx(math.log(2) ** 2)


@pytest.mark.parametrize("name", ["relu", "erf", "gelu"])
def test_dual_closed_forms_equal_quadrature(name: str) -> None:
    """Two independent derivations: to 1e-10 on 25 random covariances over six orders of magnitude, and at their
    edges."""
    act, rng = activation(FUNCTIONS[name]), np.random.default_rng(0)
    k11, k22 = np.exp(2 * rng.normal(size=(2, 28)))
    rho = np.concatenate([rng.uniform(-1, 1, 25), [1.0, -1.0, 0.0]])
    k12 = rho * np.sqrt(k11 * k22)
    first, slopes = dual.dual_of(name).pair(k11, k12, k22)
    for i in range(28):
        assert first[i] == pytest.approx(pair_moment(act, k11[i], k22[i], k12[i]), rel=1e-10, abs=1e-14)
        assert slopes[i] == pytest.approx(pair_slope_moment(act, k11[i], k22[i], k12[i]), rel=1e-7, abs=1e-10)


def test_pairs_of_a_sine_and_of_any_callable_by_monte_carlo() -> None:
    """E sin u sin v = (e^-(a+b-2c)/2 - e^-(a+b+2c)/2)/2 exactly; mish by 10^6 samples (four standard errors ~
    4e-3)."""
    a, b, c = 0.7, 1.9, -0.6
    exact = (math.exp(-(a + b - 2 * c) / 2) - math.exp(-(a + b + 2 * c) / 2)) / 2
    assert pair_moment(activation(torch.sin), a, b, c) == pytest.approx(exact, rel=1e-10)
    covariance = torch.tensor([[a, c], [c, b]], dtype=torch.float64)
    sampled = gaussian_expectation(lambda z: F.mish(z[:, 0]) * F.mish(z[:, 1]), covariance, samples=500_000, seed=0)
    assert pair_moment(activation(F.mish), a, b, c) == pytest.approx(sampled, abs=4e-3)
    numerical = dual.dual_of(F.mish).pair(np.array([[a, a]]), np.array([[c, 0.1]]), np.array([[b, b]]))
    assert numerical[0].shape == (1, 2)
    assert numerical[0][0, 0] == pytest.approx(pair_moment(activation(F.mish), a, b, c))


def test_names_modules_and_functions_share_closed_forms() -> None:
    assert dual.dual_of(nn.ReLU()).name == dual.dual_of(F.relu).name == dual.dual_of("relu").name == "relu"
    assert dual.dual_of(nn.GELU()).name == "gelu"
    assert dual.dual_of(nn.GELU(approximate="tanh")).name == "GELU"
    with pytest.raises(UsageError, match="choose one of"):
        dual.dual_of("swish")


def test_edge_of_chaos_holds_in_the_maps() -> None:
    """At the point found, the variance map is stationary and chi = 1, from both sides."""
    for function, bias_var in ((torch.tanh, 0.02), (F.hardtanh, 0.05), (torch.sin, 0.02)):
        point, act = edge_of_chaos(function, bias_var=bias_var), activation(function)
        assert point.weight_var * second_moment(act, point.q) + bias_var == pytest.approx(point.q, rel=1e-10)
        assert point.weight_var * slope_moment(act, point.q) == pytest.approx(1.0, rel=1e-12)


def test_balanced_gain_is_he_for_relu_and_lies_between_the_two_conditions_elsewhere() -> None:
    assert depth_balanced(F.relu, depth=50).weight_var == pytest.approx(2.0, rel=1e-6)
    keeps_variance = variance_preserving(torch.tanh)
    keeps_gradient = 1 / slope_moment(activation(torch.tanh), 1.0)
    one = depth_balanced(torch.tanh, depth=1)
    assert keeps_gradient < one.weight_var < keeps_variance.weight_var
    deep = [depth_balanced(torch.tanh, depth=d) for d in (1, 10, 100)]
    assert [p.weight_var for p in deep] == sorted((p.weight_var for p in deep), reverse=True)
    assert deep[-1].weight_var < 1.4, "tends to the critical value 1 of a net without biases"
    for point in deep:
        assert abs(math.log(point.q)) < 2.0 and abs(math.log(point.chi)) < 0.1


@pytest.mark.parametrize("normalised", [True, False])
def test_residual_scale_on_a_real_net(normalised: bool) -> None:
    """24 residual ReLU blocks of width 512: the stream's variance grows by 3 within 10% (24 blocks of 1/sqrt(512)
    noise)."""
    torch.manual_seed(0)
    depth, width = 24, 512
    alpha = residual_scale(depth, growth=3.0, branch_gain=1.0, normalised=normalised)
    growth = []
    for _ in range(4):
        x = torch.randn(8, width)
        begin = x.square().mean()
        for _ in range(depth):
            seen = x / x.square().mean(dim=1, keepdim=True).sqrt() if normalised else x
            # E relu(z)^2 = q/2: weights of variance 2/width give a branch of gain 1
            inner, outer = torch.randn(2, width, width) / width**0.5
            x = x + alpha * F.relu(seen @ inner) @ outer * 2**0.5
        growth.append(float(x.square().mean() / begin))
    assert float(np.mean(growth)) == pytest.approx(3.0, rel=0.1)
    assert residual_scale(4 * depth, growth=3.0, normalised=normalised) == pytest.approx(alpha / 2, rel=0.02)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="jumps at"):
        activation(torch.sign)
    with pytest.raises(UsageError, match="not elementwise"):
        activation(lambda z: torch.softmax(z, dim=-1))
    with pytest.raises(UsageError, match="not finite"):
        activation(torch.log)
    with pytest.raises(UsageError, match="no critical point"):
        edge_of_chaos(F.relu, bias_var=0.1)
    with pytest.raises(UsageError, match="cannot be negative"):
        edge_of_chaos(torch.tanh, bias_var=-0.1)
    with pytest.raises(UsageError, match="bias_var < q"):
        variance_preserving(torch.tanh, q=0.5, bias_var=0.5)
    with pytest.raises(UsageError, match="at least one layer"):
        depth_balanced(torch.tanh, depth=0)
    with pytest.raises(UsageError, match="need >= 1"):
        residual_scale(0)
    with pytest.raises(UsageError, match="exceeds"):
        pair_moment(activation(torch.tanh), 1.0, 1.0, 1.5)


def odd(z: Tensor) -> Tensor:
    """An activation of nobody's: one kink, off the origin."""
    return torch.where(z > 0.4, 2 * z - 0.4, z)


def test_an_unheard_of_activation_keeps_variance_in_a_real_net() -> None:
    point = variance_preserving(odd, q=1.0)
    torch.manual_seed(1)
    x = torch.randn(64, 800)
    for _ in range(3):
        x = odd(x) @ torch.randn(800, 800) * point.gain / 800**0.5
    # three layers of 800: relative fluctuation of the mean square ~ sqrt(3 x 2/800) ~ 9% in the shared weights, less
    # over units
    assert float(x.square().mean()) == pytest.approx(1.0, abs=0.15)
