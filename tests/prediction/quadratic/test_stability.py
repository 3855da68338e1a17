"""Thresholds from the characteristic polynomial against simulated recursions, the anchors, and torch's own
optimizers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hptransfer.core.errors import UsageError
from hptransfer.prediction.quadratic import stability
from hptransfer.prediction.quadratic.stability import (
    ema,
    ema_nesterov,
    gd,
    heavy_ball,
    limit,
    nesterov,
    rule_for,
    spectral_radius,
)
from tests.oracles.curvature import simulate_mode
from tests.support.reference import anchors

Step = Callable[[float, float, float], tuple[float, float]]


def gd_step(x: float, m: float, el: float) -> tuple[float, float]:
    return x - el * x, 0.0


def heavy_ball_step(b: float) -> Step:
    return lambda x, m, el: (x - (b * m + el * x), b * m + el * x)


def ema_step(b: float) -> Step:
    return lambda x, m, el: (x - (b * m + (1 - b) * el * x), b * m + (1 - b) * el * x)


def nesterov_step(b: float) -> Step:
    return lambda x, m, el: (x - (el * x + b * (b * m + el * x)), b * m + el * x)


def ema_nesterov_step(b: float) -> Step:
    return lambda x, m, el: (
        x - ((1 - b) * el * x + b * (b * m + (1 - b) * el * x)),
        b * m + (1 - b) * el * x,
    )


CASES: dict[str, tuple[stability.MomentumRule, Step, float]] = {
    "gd": (gd(), gd_step, 2.0),
    "heavy ball .9": (heavy_ball(0.9), heavy_ball_step(0.9), 3.8),
    "ema .9": (ema(0.9), ema_step(0.9), 38.0),
    "ema .95": (ema(0.95), ema_step(0.95), 78.0),
    "nesterov .9": (nesterov(0.9), nesterov_step(0.9), 3.8 / 2.8),
    "nesterov .5": (nesterov(0.5), nesterov_step(0.5), 3.0 / 2.0),
    "ema nesterov .95": (ema_nesterov(0.95), ema_nesterov_step(0.95), 3.9 / 2.9 / 0.05),
}


@pytest.mark.parametrize(("rule", "step", "value"), CASES.values(), ids=CASES)
def test_the_limit_splits_decay_from_growth(rule: stability.MomentumRule, step: Step, value: float) -> None:
    """lr x wd = 0: closed form to 1e-12; the simulated mode shrinks 1% below the limit and blows up 1% above it."""
    assert limit(rule) == pytest.approx(value, rel=1e-12)
    assert simulate_mode(0.99 * value, step, 20_000) < 1e-6
    assert simulate_mode(1.01 * value, step, 20_000) > 1e6
    for inside in np.linspace(0.02, 0.999, 40):
        assert spectral_radius(rule, inside * value) < 1, "a smaller LR is stable too"
    assert spectral_radius(rule, value) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("decay", [0.01, 0.3])
@pytest.mark.parametrize("rule", [c[0] for c in CASES.values()], ids=CASES)
def test_the_limit_with_weight_decay(rule: stability.MomentumRule, decay: float) -> None:
    edge = limit(rule, decay=decay)
    assert spectral_radius(rule, edge, decay=decay) == pytest.approx(1.0, abs=1e-12)
    assert spectral_radius(rule, 1.001 * edge, decay=decay) > 1
    assert all(spectral_radius(rule, s * edge, decay=decay) < 1 for s in np.linspace(0.01, 0.999, 40))


def test_anchors() -> None:
    """The tabulated values come from a scan in steps of .001, so they lie one step above the closed forms they
    name."""
    table = anchors("stability_eta_lambda")
    ours = {
        "gd": limit(gd()),
        "heavy_ball_0.9": limit(heavy_ball(0.9)),
        "ema_0.9 (Adam)": limit(ema(0.9)),
        "ema_0.95": limit(ema(0.95)),
        "nesterov_0.9": limit(nesterov(0.9)),
    }
    for name, value in ours.items():
        assert value - 1e-9 <= table[name] <= value + 1.0e-3 + 1e-9


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.8}),
        (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.4}),
        (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    ],
)
def test_torch_sgd_follows_its_rule(optimizer: type[torch.optim.Optimizer], options: dict) -> None:
    """Twelve steps of torch on x^2 lambda/2 equal the rule's matrix power."""
    rule, lam, lr = rule_for(optimizer, options), 1.7, 0.3
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    opt = optimizer([x], lr=lr, **options)
    state = np.array([1.0, 0.0])
    for step in range(12):
        opt.zero_grad()
        (lam * x.square() / 2).sum().backward()
        opt.step()
        if step == 0 and options.get("dampening"):
            # torch starts its buffer at the undamped first gradient
            state = np.array([1 - lr * lam, lr * lam])
        else:
            state = rule.matrix(lr * lam) @ state
        assert x.item() == pytest.approx(state[0], rel=1e-12)


def test_torch_adam_with_constant_denominator_follows_its_rule() -> None:
    """With eps far above the gradient Adam divides by eps alone: an EMA with bias correction, at lr/eps."""
    rule, lam, lr, eps = rule_for(torch.optim.Adam, {"betas": (0.9, 0.99)}), 1.3, 0.2, 1e9
    x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    opt = torch.optim.Adam([x], lr=lr * eps, betas=(0.9, 0.99), eps=eps)
    y, m = 1.0, 0.0
    for factor in rule.lr_factor(12):
        opt.zero_grad()
        (lam * x.square() / 2).sum().backward()
        opt.step()
        y, m = y - lr * factor * (rule.p * lam * y + rule.q * m), rule.b * m + rule.a * lam * y
        assert x.item() == pytest.approx(y, rel=1e-7)


def test_rules_of_the_other_optimizers_and_refusals() -> None:
    assert limit(rule_for(torch.optim.AdamW, {})) == pytest.approx(38.0)
    assert limit(rule_for(torch.optim.Muon, {"nesterov": False})) == pytest.approx(78.0)
    assert limit(rule_for(torch.optim.Muon, {})) == pytest.approx(3.9 / 2.9 / 0.05)
    assert limit(rule_for(torch.optim.RMSprop, {})) == 2.0
    assert limit(rule_for(torch.optim.RMSprop, {"momentum": 0.9})) == pytest.approx(3.8)
    assert rule_for(torch.optim.NAdam, {}).name == "ema nesterov"
    assert limit(rule_for(torch.optim.Adagrad, {})) == 2.0
    with pytest.raises(UsageError, match="No momentum rule is known for LBFGS"):
        rule_for(torch.optim.LBFGS, {})
    with pytest.raises(UsageError, match="must lie in"):
        heavy_ball(1.0)
    with pytest.raises(UsageError, match="weight decay must lie"):
        limit(gd(), decay=1.0)
