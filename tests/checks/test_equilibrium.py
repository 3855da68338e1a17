"""Update equilibrium: independent decay forgets and turns alike at every width; coupled decay drifts."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from hptransfer.checks.equilibrium.check import (
    decay_per_step,
    equilibrium_check,
    equilibrium_rms,
    equilibrium_rotation,
    rates,
    relative_update,
    timescale,
)
from hptransfer.checks.equilibrium.report import EquilibriumReport
from hptransfer.core.errors import UsageError
from hptransfer.core.training.recipe import Scale, load_recipe
from tests.cases.coord import WIDTHS, build_mlp, conv, loss, mlp, mlp_decayed, mlp_sgd, rows


@functools.cache
def check(scheme: str = "mup") -> EquilibriumReport:
    return equilibrium_check(mlp_decayed, widths=WIDTHS, scheme=scheme, steps=60)


@pytest.mark.parametrize(("beta1", "lr", "weight_decay"), [(0.9, 1e-3, 2.0), (0.0, 2e-3, 1.0), (0.9, 1e-3, 8.0)])
def test_adamw_under_white_noise_settles_where_the_closed_form_says(beta1, lr, weight_decay):
    """4000 independent weights, far from it at first; within 3%, the order of lr wd / (1 - b1) and of b2's noise."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.full((4000,), 0.1))
    optimizer = torch.optim.AdamW([weight], lr=lr, weight_decay=weight_decay, betas=(beta1, 0.999), eps=1e-12)
    sizes, turns = [], []
    steps = int(6 * timescale(lr, weight_decay))
    for step in range(steps):
        weight.grad, before = torch.randn(4000), weight.detach().clone()
        optimizer.step()
        if step > steps // 2:
            sizes.append(float(weight.detach().square().mean()))
            turns.append(relative_update(weight.detach(), before, lr * weight_decay))
    settled = math.sqrt(sum(sizes) / len(sizes))
    assert settled == pytest.approx(equilibrium_rms(lr, weight_decay), rel=0.03)
    assert sum(turns) / len(turns) == pytest.approx(equilibrium_rotation(lr, weight_decay, beta1), rel=0.03)


def test_the_start_is_forgotten_at_the_timescale():
    """With symmetric noise the mean of the weights is the start's share, which decays as (1 - lr wd)^t."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.full((20000,), 1.0))
    optimizer = torch.optim.AdamW([weight], lr=1e-3, weight_decay=10.0)
    for _ in range(round(timescale(1e-3, 10.0))):
        weight.grad = torch.randn(20000)
        optimizer.step()
    assert float(weight.detach().mean()) == pytest.approx(math.exp(-1), rel=0.03)
    assert timescale(1e-3, 0.0) == equilibrium_rms(1e-3, 0.0) == math.inf


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.5),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=0.5),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=0.5, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_real_step_takes_lr_times_wd_and_is_undone(name):
    torch.manual_seed(0)
    model = build_mlp(Scale(width=16)).double()
    optimizer = OPTIMIZERS[name](model.parameters())
    weights = dict(model.named_parameters())
    x, y = next(rows(Scale(width=16), 0))
    for _ in range(3):
        optimizer.zero_grad()
        loss(model, (x.double(), y)).backward()
        optimizer.step()
    before, state = {n: p.detach().clone() for n, p in weights.items()}, str(optimizer.state_dict())
    taken = decay_per_step(optimizer, weights)
    assert all(torch.equal(before[n], p.detach()) for n, p in weights.items())
    assert str(optimizer.state_dict()) == state
    factor = 1.9 if name == "momentum" else 1.0  # Nesterov sees the decay term twice: now and in the buffer, b times
    assert taken == pytest.approx({n: factor * rate for n, rate in rates(optimizer, weights).items()}, rel=1e-6)


def test_independent_decay_passes_and_coupled_fails_under_mup():
    report = check()
    assert report.verdicts == {"independent": "PASS", "coupled": "FAIL"} and report.verdict == "PASS", report.reasons


def test_timescales_are_exact_powers_of_the_width():
    """Hidden and readout lr ~ 1/m, so wd as given leaves lr wd ~ 1/m; input layer and biases keep theirs."""
    report = check()
    for name in ("0.weight", "2.weight", "4.weight", "0.bias"):
        assert report.row("independent", name, "timescale").slope == pytest.approx(0, abs=1e-9)
    for name, exponent in {"0.weight": 0, "2.weight": 1, "4.weight": 1, "0.bias": 0}.items():
        assert report.row("coupled", name, "timescale").slope == pytest.approx(exponent, abs=1e-9)


def test_the_real_optimizer_decays_as_its_groups_say():
    for record in check().records:
        if record.matrix:
            assert record.taken == pytest.approx(record.rate, rel=2e-3)


def test_rotation_starts_at_minus_one_half_and_decay_takes_it_to_zero():
    """muP's hidden updates ~ 1/m on weights ~ m^-1/2; at equilibrium sqrt(lr wd) alone counts."""
    report = check()
    assert report.row("independent", "2.weight", "update at the start").slope == pytest.approx(-0.5, abs=0.1)
    assert report.row("independent", "2.weight", "update at the end").slope == pytest.approx(0, abs=0.1)
    assert report.row("coupled", "2.weight", "update at the end").slope < -0.4
    assert report.row("coupled", "median of hidden matrices", "update at the end").ok is False
    assert report.row("independent", "median of hidden matrices", "update at the end").ok
    settled = [r for r in report.records if r.rule == "independent" and r.parameter == "2.weight"]
    ratios = {w: [r.norm_ratio for r in settled if r.width == w] for w in (32, 256)}
    shrunk = sum(ratios[256]) / sum(ratios[32])
    assert math.log(shrunk) / math.log(8) == pytest.approx(-0.5, abs=0.1)  # rms ~ sqrt(lr / wd) ~ 1/m, from m^-1/2


def test_both_rules_are_one_where_learning_rates_do_not_differ():
    """The SP control has one learning rate, so both rules are one; its rotation starts at +1/2."""
    report = check("sp")
    same = [(r.rate, r.taken) for r in report.records if r.rule == "independent"]
    assert same == [(r.rate, r.taken) for r in report.records if r.rule == "coupled"]
    assert report.row("coupled", "2.weight", "timescale").slope == pytest.approx(0, abs=1e-9)
    assert report.row("coupled", "2.weight", "update at the start").slope == pytest.approx(0.5, abs=0.15)


def test_sgd_and_conv_nets_are_checked_too():
    sgd = equilibrium_check(mlp_sgd, widths=(32, 64, 128), steps=24, seeds=2)
    assert sgd.row("coupled", "2.weight", "timescale").slope == pytest.approx(0, abs=1e-9)  # muP-SGD: lr 1 for hidden
    assert sgd.row("coupled", "0.weight", "measured timescale").slope == pytest.approx(-1, abs=0.05)  # lr ~ m
    deep = conv.replace(optimizer=torch.optim.AdamW)
    net = equilibrium_check(deep, widths=(32, 64, 128), steps=24, seeds=2, rules=("coupled",))
    assert net.verdict == "FAIL" and net.row("coupled", "second.weight", "timescale").slope == pytest.approx(1)


@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        (mlp, {}, "recipe.replace\\(optimizer=torch.optim.AdamW\\)"),
        (mlp_decayed, {"widths": (8, 16)}, "2 distinct"),
        (mlp_decayed, {"weight_decay": 0.0}, "weight_decay=0.0"),
        (mlp_decayed, {"steps": 3}, "steps=3"),
        (mlp_decayed, {"rules": ("sideways",)}, "sideways"),
        (mlp_decayed, {"rules": ()}, "rules is empty"),
    ],
)
def test_bad_arguments_are_usage_errors(recipe, arguments, message):
    with pytest.raises(UsageError, match=message):
        equilibrium_check(recipe, **{"widths": (8, 16, 32), **arguments})


def test_divergence_fails_with_the_width_named():
    wild = mlp_decayed.replace(
        loss=lambda model, batch: loss(model, batch) * (math.nan if model[0].out_features > 20 else 1)
    )
    report = equilibrium_check(wild, widths=(8, 16, 32), steps=8, seeds=2, rules=("independent",))
    assert report.verdict == "FAIL" and report.reasons["independent"] == "not finite at width 32"


def test_round_trip_and_table(tmp_path: Path):
    report = check()
    report.save(tmp_path / "equilibrium.json")
    again = EquilibriumReport.load(tmp_path / "equilibrium.json")
    assert again.to_json() == report.to_json() and str(again) == str(report)
    text = str(report)
    assert "independent PASS, coupled FAIL" in text and text.index("FAIL\n") < text.index("ok\n")
    with pytest.raises(UsageError, match="lacks the field 'verdict'"):
        EquilibriumReport.from_json({})
    with pytest.raises(UsageError, match="of schema 99"):
        EquilibriumReport.from_json({**report.to_json(), "schema": 99})


OWN = Path(__file__).parents[2] / "recipes"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "resnet", "gpt"])
def test_own_recipes(name):
    recipe = load_recipe(str(OWN / f"{name}.py")).replace(optimizer=torch.optim.AdamW)
    report = equilibrium_check(recipe, widths=recipe.widths)
    assert report.verdicts == {"independent": "PASS", "coupled": "FAIL"}, report.reasons
