"""The noisy quadratic: exact recursion against Monte Carlo and closed forms; optima against anchors and
optimality."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.prediction.curvature.operators import gradients
from hptransfer.prediction.curvature.parameters import ParameterSpace
from hptransfer.prediction.curvature.preconditioned import preconditioner_at_init
from hptransfer.prediction.quadratic.local_quadratic import local_quadratic
from hptransfer.prediction.quadratic.quadratic import NoisyQuadratic, final_losses, loss_curve
from hptransfer.prediction.quadratic.quadratic_optimum import (
    SHAPES,
    factors,
    hedged_lr,
    loss_and_gradient,
    optimal_lr,
    optimal_schedule,
)
from hptransfer.prediction.quadratic.stability import MomentumRule, ema, ema_nesterov, gd, heavy_ball, nesterov
from tests.oracles.curvature import monte_carlo_losses
from tests.support.reference import anchors

RULES = {
    "gd": gd(),
    "heavy ball": heavy_ball(0.8),
    "nesterov": nesterov(0.8),
    "ema": ema(0.9),
    "adam": ema(0.9, corrected=True),
    "ema nesterov": ema_nesterov(0.9),
}
SMALL = NoisyQuadratic.of([2.0, 0.5, 0.1], [1.0, 0.7, 0.4], [0.3, 0.1, 0.2])


def momentum_update(rule: MomentumRule, decay: float):
    """The optimizer's own words, for whole arrays of runs."""

    def update(x, m, g, lr, t):
        m = rule.b * m + (g if rule.name in ("gd", "heavy ball", "nesterov") else (1 - rule.b) * g)
        step = {
            "gd": g,
            "heavy ball": m,
            "nesterov": g + rule.b * m,
            "ema": m,
            "ema nesterov": (1 - rule.b) * g + rule.b * m,
        }[rule.name]
        step = step / (1 - rule.b ** (t + 1)) if rule.corrected else step
        return (1 - lr * decay) * x - lr * step, m

    return update


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_recursion_equals_monte_carlo(rule: MomentumRule, decay: float) -> None:
    """40,000 simulated runs; four standard errors of the simulated mean."""
    lrs = 0.3 * np.linspace(1, 0.2, 15)
    exact = loss_curve(SMALL, lrs, rule=rule, decay=decay)[-1]
    start = np.sqrt(SMALL.energies / SMALL.eigenvalues)
    noise = np.sqrt(SMALL.noise)
    simulated, error = monte_carlo_losses(
        SMALL.eigenvalues, start, noise, lrs, momentum_update(rule, decay), samples=40_000, seed=1
    )
    assert abs(exact - simulated) < 4 * error
    assert final_losses(SMALL, [0.3], np.linspace(1, 0.2, 15), rule=rule, decay=decay)[0] == pytest.approx(exact)


def test_constant_gd_has_the_summed_series() -> None:
    fast = final_losses(SMALL, [0.4, 0.9, 3.0], np.ones(200))
    slow = [loss_curve(SMALL, np.full(200, lr))[-1] for lr in (0.4, 0.9, 3.0)]
    assert fast == pytest.approx(slow, rel=1e-10)
    still = NoisyQuadratic.of([1.0], [0.0], [2.0])
    # lr lambda = 2: r^2 = 1, the series is T itself
    assert final_losses(still, [2.0], np.ones(50))[0] == pytest.approx(0.5 * 2.0 * 4 * 50)


def test_the_noise_floor() -> None:
    """GD settles at lr noise / (2 (2 - lr lambda)) per mode (Mandt et al. 1704.04289 for small lr; exact here)."""
    lr = 0.5
    floor = (lr * SMALL.noise / (2 * (2 - lr * SMALL.eigenvalues))).sum()
    assert loss_curve(SMALL, np.full(4000, lr))[-1] == pytest.approx(floor, rel=1e-10)


def test_optimal_constant_lr_equals_the_anchors() -> None:
    for key, (eta_lambda, loss) in anchors("quadratic_gd_opt_eta_lambda_max").items():
        a, b, steps = (float(part.split("=")[1]) for part in key.split(","))
        found = optimal_lr(NoisyQuadratic.power_law(a, b), int(steps))
        assert found.lr == pytest.approx(eta_lambda, abs=1e-6), key
        assert found.loss == pytest.approx(loss, rel=1e-6), key
        assert not found.at_limit


def test_the_bulk_of_the_anchors_without_the_file() -> None:
    """One noiseless step: lr = sum e l / sum e l^2; zeta(3)/zeta(4.5) = 1.13970 for a = b = 1.5."""
    problem = NoisyQuadratic.power_law(1.5, 1.5)
    exact = (problem.energies @ problem.eigenvalues) / (problem.energies @ problem.eigenvalues**2)
    assert optimal_lr(problem, 1).lr == pytest.approx(exact, abs=1e-7)
    assert exact == pytest.approx(1.2020569 / 1.0547075, abs=1e-5)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("shape", ["constant", "linear"])
def test_optimal_lr_beats_every_other_lr(rule: MomentumRule, shape: str) -> None:
    found = optimal_lr(SMALL, 30, shape=SHAPES[shape], rule=rule)
    rivals = final_losses(SMALL, found.lr * np.geomspace(1 / 30, 30, 601), factors(SHAPES[shape], 30), rule=rule)
    assert found.loss <= rivals.min() * (1 + 1e-9)
    assert found.loss < found.initial_loss


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_adjoint_equals_finite_differences(rule: MomentumRule, decay: float) -> None:
    rng = np.random.default_rng(0)
    lrs = 0.3 + 0.1 * rng.random(12)
    loss, slope = loss_and_gradient(SMALL, lrs, rule=rule, decay=decay)
    assert loss == pytest.approx(loss_curve(SMALL, lrs, rule=rule, decay=decay)[-1], rel=1e-13)
    for t in range(12):
        bump = np.eye(12)[t] * 1e-5
        ends = [loss_curve(SMALL, lrs + s * bump, rule=rule, decay=decay)[-1] for s in (1, -1)]
        assert slope[t] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_the_free_schedule_of_one_mode_is_the_greedy_filter() -> None:
    """One mode: every step may be chosen for itself, lr_t = E x_t^2 / (lambda E x_t^2 + noise/lambda), a Kalman
    gain."""
    problem = NoisyQuadratic.of([0.5], [1.0], [0.2])
    second, expected = 1.0 / 0.5, []
    for _ in range(25):
        lr = 0.5 * second / (0.25 * second + 0.2)
        second = (1 - lr * 0.5) ** 2 * second + lr**2 * 0.2
        expected.append(lr)
    found = optimal_schedule(problem, 25)
    assert found.loss == pytest.approx(0.5 * 0.5 * second, rel=1e-9)
    assert found.schedule == pytest.approx(expected, rel=2e-3)


def test_two_free_steps_solve_two_modes_exactly() -> None:
    """Without noise T steps annihilate T modes: the LRs are 1/lambda_i, and only uncapped, since 1/.1 > 2/2."""
    problem = NoisyQuadratic.of([2.0, 0.1], [1.0, 1.0])
    found = optimal_schedule(problem, 2, max_lr=math.inf)
    assert sorted(found.schedule) == pytest.approx([0.5, 10.0], rel=1e-4)
    assert found.loss < 1e-8
    capped = optimal_schedule(problem, 2)
    assert capped.schedule.max() <= capped.max_lr * (1 + 1e-12)
    assert capped.at_limit and capped.loss > 1e-2


@pytest.mark.parametrize("rule", [gd(), ema(0.9, corrected=True)], ids=["gd", "adam"])
def test_the_free_schedule_is_best_and_decays_under_noise(rule: MomentumRule) -> None:
    problem = NoisyQuadratic.power_law(1.0, 1.5, modes=10, noise=0.05)
    shaped = {name: optimal_lr(problem, 120, shape=shape, rule=rule).loss for name, shape in SHAPES.items()}
    free = optimal_schedule(problem, 120, rule=rule)
    knotted = optimal_schedule(problem, 120, rule=rule, knots=8)
    assert free.loss <= knotted.loss * (1 + 1e-6) <= min(shaped.values()) * (1 + 1e-6)
    assert shaped["linear"] < shaped["wsd"] < shaped["constant"]
    assert free.schedule[-10:].mean() < 0.5 * free.schedule[:10].mean(), "noise is annealed at the end"
    assert free.loss == pytest.approx(loss_curve(problem, free.schedule, rule=rule)[-1])


def test_longer_horizons_with_noise_want_smaller_constant_lrs() -> None:
    """Without noise the LR climbs to 2/lambda_max with T; with noise the floor lr noise/2 makes it fall."""
    quiet, noisy = NoisyQuadratic.power_law(1.5, 1.5), NoisyQuadratic.power_law(1.5, 1.5, noise=0.1)
    lrs = [[optimal_lr(p, t).lr for t in (10, 100, 1000)] for p in (quiet, noisy)]
    assert lrs[0] == sorted(lrs[0]) and lrs[0][-1] < 2
    assert lrs[1] == sorted(lrs[1], reverse=True)


def test_uncertain_curvature_leans_low() -> None:
    problem = NoisyQuadratic.power_law(1.5, 1.5, modes=200)
    leans = [hedged_lr(problem, 300, octaves=o) for o in (0.0, 0.25, 0.5, 1.0)]
    assert leans[0].lean == 0.0 and leans[0].diverges == 0.0
    assert all(b.lean < a.lean for a, b in itertools.pairwise(leans))
    assert all(0 < h.diverges < 0.2 for h in leans[1:])
    certain = optimal_lr(problem, 300)
    z = np.random.default_rng(0).standard_normal(20_000)

    def expected(lr: float) -> float:
        losses = final_losses(problem, lr * 2 ** (0.5 * z), np.ones(300))
        return float(np.minimum(losses, problem.initial_loss).mean())

    # Gauss-Hermite on a kinked integrand (the cliff) is good to some percent
    assert leans[2].loss == pytest.approx(expected(leans[2].lr), rel=0.1)
    assert expected(leans[2].lr) < expected(certain.lr)


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="eigenvalues must be positive"):
        NoisyQuadratic.of([1.0, 0.0], [1.0, 1.0])
    with pytest.raises(UsageError, match="one length"):
        NoisyQuadratic.of([1.0, 2.0], [1.0])
    with pytest.raises(UsageError, match="as many factors"):
        optimal_lr(SMALL, 5, shape=[1.0, 0.5])
    with pytest.raises(UsageError, match="cannot be negative"):
        hedged_lr(SMALL, 5, octaves=-1.0)


def mse(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def linear_case() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    scales = torch.arange(1, 13).double() ** -0.7
    model = nn.Linear(12, 1, bias=False).double()
    truth = torch.randn(12, 1).double()
    xs = [torch.randn(64, 12).double() * scales for _ in range(8)]
    return model, [(x, x @ truth + 0.3 * torch.randn(64, 1).double()) for x in xs]


@pytest.mark.parametrize("adam", [False, True], ids=["sgd", "frozen adam"])
def test_the_local_quadratic_of_a_linear_model_forecasts_full_batch_training(adam: bool) -> None:
    """A linear model with squared loss *is* a quadratic: 12 nodes give all 12 modes, and the loss decrease of
    full-batch training with EMA momentum is forecast to rounding, once the energies' noise correction is undone."""
    model, batches = linear_case()
    space = ParameterSpace.of(model)
    optimizer = torch.optim.Adam if adam else torch.optim.SGD
    p = preconditioner_at_init(optimizer, {}, space, gradients(model, mse, batches))
    local = local_quadratic(model, mse, batches, preconditioner=p, nodes=12)
    rule, lr = ema(0.9), 3.0 / local.problem.lambda_max
    energies = local.problem.energies / local.signal
    noiseless = NoisyQuadratic.of(local.problem.eigenvalues, energies)
    forecast = loss_curve(noiseless, np.full(40, lr), rule=rule)

    def full_loss() -> float:
        return float(sum(mse(model, b).item() for b in batches) / len(batches))

    begin, m = full_loss(), torch.zeros(space.size, dtype=torch.float64)
    for step in range(40):
        m = 0.9 * m + 0.1 * gradients(model, mse, batches).mean(dim=0)
        space.assign(space.flatten(space.tensors) - lr * p.inverse(m))
        assert begin - full_loss() == pytest.approx(forecast[0] - forecast[step + 1], rel=1e-8)


def test_the_local_quadratic_measures_gradient_noise() -> None:
    """Signed sums have the batches' covariance: the trace in the modes equals tr S up to the spread of 64 probes."""
    model, batches = linear_case()
    local = local_quadratic(model, mse, batches, noise_probes=64, nodes=12)
    rows = gradients(model, mse, batches)
    trace = float(rows.var(dim=0).sum())
    assert local.noise_trace == pytest.approx(trace, rel=1e-12)
    assert local.problem.noise.sum() == pytest.approx(trace, rel=0.25)
    assert local.signal * float(rows.mean(dim=0).square().sum()) == pytest.approx(local.gradient_norm2)
    assert optimal_lr(local.problem, 50).lr < local.problem.max_lr(gd())


def test_the_local_quadratic_refuses_a_saddle_and_a_single_batch() -> None:
    model, batches = linear_case()
    with pytest.raises(UsageError, match="at least 2 batches"):
        local_quadratic(model, mse, batches[:1])
    with pytest.raises(UsageError, match="Use matrix='ggn'"):
        local_quadratic(model, lambda m, b: -mse(m, b), batches, matrix="hessian")
