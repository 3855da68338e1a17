"""Batch and tokens of a plan, at the base's own width: what is left are the named rules, held by what they promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hptransfer as hpt
from tests.cases.models import MLP, batches, seeded

K, R = 8.0, 3.0  # batch and tokens, target / base
TARGET, BASE = hpt.Scale(batch=128, tokens=3000), hpt.Scale(batch=16, tokens=1000)


def plan(optimizer: Any = torch.optim.AdamW, *, target: hpt.Scale = TARGET, **rules: Any) -> hpt.Plan:
    """The plan of the base's own size for another batch and other tokens."""
    return hpt.make_plan(
        seeded(MLP, 8), base=seeded(MLP, 8), example_inputs=(batches("mlp", 1)[0][0],), optimizer=optimizer,
        options=hpt.Options(**rules), scale=target, base_scale=BASE,
    )  # fmt: skip


def shared(made: hpt.Plan, name: str) -> float:
    """The one multiplier that all rows have."""
    (value,) = {getattr(row, name) for row in made}
    return value


@pytest.mark.parametrize(
    ("optimizer", "rule", "lr", "eps"),
    [
        (torch.optim.AdamW, "default", K**0.5, K**-0.5),  # Adam's SDE, Malladi et al. 2022, 2205.10287
        (torch.optim.SGD, "default", K, 1.0),  # SGD's SDE, 1511.06251; Goyal et al. 2017, 1706.02677
        (torch.optim.AdamW, "linear", K, 1.0),
        (torch.optim.SGD, "sqrt", K**0.5, 1.0),  # it has no eps that follows the gradient
        (torch.optim.AdamW, "none", 1.0, 1.0),
    ],
)
def test_learning_rate_and_eps_follow_the_batch(optimizer: Any, rule: str, lr: float, eps: float) -> None:
    made = plan(optimizer, batch=rule)
    assert shared(made, "lr_mult") == pytest.approx(lr) and shared(made, "eps_mult") == pytest.approx(eps)
    assert shared(made, "init_mult") == shared(made, "fwd_mult") == 1.0


@pytest.mark.parametrize("rules", [{}, {"batch": "linear"}, {"batch": "none"}, {"duration": "power:-0.3"}])
def test_weight_decay_keeps_its_timescale_in_epochs(rules: dict[str, Any]) -> None:
    """tau = B / (lr wd D) (Wang and Aitchison 2024, 2405.13698), whatever the rule of the learning rate."""
    made = plan(**rules)
    assert K / (shared(made, "lr_mult") * shared(made, "wd_mult") * R) == pytest.approx(1.0)
    kept = plan(**rules, decay_horizon="none")
    assert shared(kept, "wd_mult") == 1.0 and shared(kept, "lr_mult") == shared(made, "lr_mult")


@pytest.mark.parametrize("exponent", [-0.3, 0.31])
def test_a_measured_exponent_of_the_duration_is_applied_as_it_is(exponent: float) -> None:
    with_it, without = plan(duration=f"power:{exponent}"), plan()
    assert shared(with_it, "lr_mult") / shared(without, "lr_mult") == pytest.approx(R**exponent)


def test_betas_keep_their_half_life_in_samples() -> None:
    """A beta^k per step of k times the samples forgets as much per sample; where the rate stays, so do the betas."""
    model = seeded(MLP, 8)
    for rule, power in (("default", K), ("linear", K), ("none", 1.0)):
        made = plan(batch=rule)
        assert made.beta_power == power
        optimizer = hpt.build_optimizers(model, made, {torch.optim.AdamW: {"lr": 1e-3}})
        assert {g["betas"] for g in optimizer.param_groups} == {(0.9**power, 0.999**power)}


def test_as_many_steps_on_larger_batches_is_a_change_too() -> None:
    """k = r: the run has the base's steps, each of k times the data."""
    made = plan(target=hpt.Scale(batch=64, tokens=4000))
    assert shared(made, "lr_mult") == pytest.approx(2.0) and shared(made, "wd_mult") == pytest.approx(0.5)
    assert made.beta_power == 4.0 and any("batch x 4" in reason for reason in made["last.weight"].why)


@pytest.mark.parametrize("target", [BASE, hpt.Scale(), hpt.Scale(width=8)])
def test_equal_or_open_axes_change_nothing(target: hpt.Scale) -> None:
    made = plan(target=target)
    assert made.is_identity and not any("batch x" in reason for row in made for reason in row.why)


def test_an_axis_that_is_open_does_not_count() -> None:
    batch, tokens = plan(target=hpt.Scale(batch=128)), plan(target=hpt.Scale(tokens=3000))
    assert shared(batch, "lr_mult") == pytest.approx(K**0.5) and shared(batch, "wd_mult") == pytest.approx(K**0.5)
    assert shared(tokens, "lr_mult") == 1.0 and shared(tokens, "wd_mult") == pytest.approx(1 / R)


@pytest.mark.parametrize(
    "rules", [{"batch": "cubic"}, {"duration": "power:x"}, {"duration": "exp:2"}, {"decay_horizon": "tau"}]
)
def test_an_unknown_rule_is_refused_with_the_known_ones(rules: dict[str, str]) -> None:
    with pytest.raises(hpt.UsageError, match=r"is unknown( or needs more than a plan knows)?; use "):
        plan(**rules)


def test_l2_inside_adam_shrinks_as_much_per_sample() -> None:
    """By brute force: gradients of noise alone, rms k^-1/2. A run of as many samples takes as much off the weights."""

    def left(k: float, lr: float, wd: float) -> float:
        draw, weight = torch.Generator().manual_seed(0), torch.nn.Parameter(torch.ones(20_000))
        optimizer = torch.optim.Adam([weight], lr=lr, weight_decay=wd)
        for _ in range(int(400 / k)):
            weight.grad = torch.randn(weight.shape, generator=draw) * k**-0.5
            optimizer.step()
        return float(weight.detach().mean())

    made = plan(torch.optim.Adam, target=hpt.Scale(batch=64, tokens=1000))  # k = 4, the same samples
    lr, wd = shared(made, "lr_mult"), shared(made, "wd_mult")
    assert wd == pytest.approx(1.0) and shared(plan(target=hpt.Scale(batch=64)), "wd_mult") == pytest.approx(2.0)
    base, target = left(1.0, 0.01, 0.05), left(4.0, 0.01 * lr, 0.05 * wd)
    # .2 is taken off; the mean of 20,000 weights that noise moves by lr sqrt(steps) = .2 is known to .0015
    assert 1 - base > 0.12 and 1 - target == pytest.approx(1 - base, rel=0.1)
    assert 1 - left(4.0, 0.01 * lr, 0.05 * 2.0) == pytest.approx(2 * (1 - base), rel=0.15)  # as AdamW's: twice too much


def test_decay_free_of_the_rate_keeps_what_is_shrunk_per_sample() -> None:
    hpt.register_optimizer("FreeOfRate", "sign", decay="fixed")
    made = plan("FreeOfRate")
    assert shared(made, "wd_mult") == pytest.approx(K / R)  # a step of K times the samples, of 1/R of the run each
    assert shared(plan("FreeOfRate", decay_horizon="none"), "wd_mult") == 1.0


@pytest.mark.parametrize(
    ("cls", "key", "options"),
    [
        (torch.optim.RMSprop, "alpha", {"alpha": 0.9}),
        (torch.optim.Adadelta, "rho", {"rho": 0.8}),
        (torch.optim.Muon, "momentum", {"momentum": 0.9}),
    ],
)
def test_averages_of_other_names_keep_their_half_life_too(cls: Any, key: str, options: dict[str, float]) -> None:
    model = torch.nn.Linear(8, 8, bias=False)
    made = hpt.make_plan(
        model, base=model, example_inputs=(torch.zeros(2, 8),), optimizer=cls, optimizer_options=options,
        scale=TARGET, base_scale=BASE,
    )  # fmt: skip
    (group,) = hpt.build_optimizers(model, made, {cls: {"lr": 0.1, **options}}).param_groups
    assert group[key] == pytest.approx(options[key] ** K)


def test_a_momentum_that_sums_keeps_the_size_of_the_step() -> None:
    """SGD's linear rule is one at fixed momentum (1706.02677): what counts is lr / (1 - momentum), 1711.00489."""
    made = plan(torch.optim.SGD)
    optimizer = hpt.build_optimizers(seeded(MLP, 8), made, {torch.optim.SGD: {"lr": 0.1, "momentum": 0.9}})
    assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1 * K] * len(optimizer.param_groups))


def test_a_relative_step_s_eps_follows_the_batch() -> None:
    """Adafactor's first eps stands beside a root of the squared gradient, as Adam's does."""
    assert shared(plan(torch.optim.Adafactor), "eps_mult") == pytest.approx(K**-0.5)
