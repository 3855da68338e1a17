"""Every optimizer: under its plan a step changes each layer's output equally at every width; without it, not so."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.rules import rule_for, scheme_named
from hptransfer.parametrization.apply.optimizers import build_optimizers
from hptransfer.parametrization.matching import traces

WIDTHS = (32, 64, 128, 256)
BASE = 32


class Net(nn.Module):
    """16 features -> width -> width -> 4, with a gain and biases: every role once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp, self.hidden, self.out = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h1 = torch.relu(self.inp(x))
        return self.out(torch.relu(self.norm(h1 + self.hidden(h1))))


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, 2302.06675: the sign of an interpolated momentum, decoupled decay."""

    def __init__(self, params, lr: float = 1e-4, beta: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(m.lerp(p.grad, 1 - group["beta"]).sign(), alpha=-group["lr"])
                m.lerp_(p.grad, 0.01)


class Plain(torch.optim.Optimizer):
    """A user's own optimizer, which the library does not know."""

    def __init__(self, params, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=-group["lr"])


hpt.register_optimizer(Lion, "sign", decay="decoupled")
optim = torch.optim
CASES = {
    "sgd": (optim.SGD, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": (optim.Adam, {"lr": 1e-3}),
    "amsgrad": (optim.Adam, {"lr": 1e-3, "amsgrad": True}),
    "maximize": (optim.Adam, {"lr": 1e-3, "maximize": True}),
    "adam, large eps": (optim.Adam, {"lr": 1e-1, "eps": 1.0}),
    "adamw": (optim.AdamW, {"lr": 1e-3}),
    "nadam": (optim.NAdam, {"lr": 1e-3}),
    "radam": (optim.RAdam, {"lr": 1e-3}),
    "rmsprop": (optim.RMSprop, {"lr": 1e-3}),
    "rmsprop, centered, momentum": (optim.RMSprop, {"lr": 1e-4, "centered": True, "momentum": 0.9}),
    "adagrad": (optim.Adagrad, {"lr": 1e-2}),
    "adamax": (optim.Adamax, {"lr": 1e-3}),
    "adadelta": (optim.Adadelta, {"lr": 1.0}),
    "adadelta, large eps": (optim.Adadelta, {"lr": 0.1, "eps": 1e-2}),
    "adafactor": (optim.Adafactor, {"lr": 1e-2}),
    "adafactor, large floor": (optim.Adafactor, {"lr": 1e-2, "eps": (None, 0.5)}),
    "lion": (Lion, {"lr": 1e-3}),
}


@pytest.fixture(autouse=True)
def _trace_each_model_once(monkeypatch):
    """A trace does not depend on the optimizer: share it between the cases."""
    monkeypatch.setattr(traces, "trace", _traced)


@cache
def _traced(model, args):
    return TRACE(model, args)


TRACE = traces.trace
X, Y = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), torch.arange(32.0).reshape(8, 4).cos()
INPUTS = (X,)


@cache
def reference(width: int) -> Net:
    """One model per width, at its own init. Only traced, measured and copied."""
    torch.manual_seed(width)
    return Net(width)


def planned(width: int, optimizer, options, scheme: str = "mup", **choices) -> hpt.Plan:
    hypers = {k: v for k, v in options.items() if k not in {"lr", "weight_decay"}}
    return hpt.make_plan(
        reference(width), base=reference(BASE), example_inputs=INPUTS, scheme=scheme, optimizer=optimizer,
        optimizer_options=hypers, options=hpt.Options(**choices),
    )  # fmt: skip


def fresh(width: int, plan: hpt.Plan, seed: int = 0) -> Net:
    torch.manual_seed(1 + seed)
    model = Net(width)
    hpt.parametrize_(model, plan)
    return model


def slope(values: list[float]) -> float:
    """Of log2(values) in log2(width)."""
    return float(np.polyfit(np.log2(WIDTHS), np.log2(values), 1)[0])


def slopes(optimizer, options, scheme: str = "mup", skip: int = 0) -> dict[str, float]:
    """Per parameter: how the rms change of its layer's output over 8 steps after `skip` grows with the width."""
    rms: dict[str, list[float]] = {}
    for width in WIDTHS:
        plan = planned(width, optimizer, options, scheme)
        changes = [_changes(plan, optimizer, options, width, seed, skip) for seed in range(4)]
        for name in changes[0]:
            rms.setdefault(name, []).append(float(np.mean([c[name] for c in changes])))
    return {name: slope(values) for name, values in rms.items()}


def _changes(plan, optimizer, options, width, seed, skip) -> dict[str, float]:
    model = fresh(width, plan, seed)
    opt = build_optimizers(model, plan, {optimizer: options})
    _steps(model, opt, skip)
    before, layers = copy.deepcopy(model), {"inp": X}
    layers["hidden"] = torch.relu(before.inp(X)).detach()
    layers["out"] = torch.relu(before.norm(layers["hidden"] + before.hidden(layers["hidden"]))).detach()
    _steps(model, opt, 8)
    pairs = zip(model.named_parameters(), before.parameters(), strict=True)
    delta = {name: (new - old).detach() for (name, new), old in pairs}
    out = {n: layers[n.removesuffix(".weight")] @ d.T if d.dim() == 2 else d for n, d in delta.items()}
    return {n: float(d.square().mean().sqrt()) for n, d in out.items()}


def _steps(model: nn.Module, opt: torch.optim.Optimizer, count: int) -> None:
    for _ in range(count):
        opt.zero_grad()
        (model(X) - Y).square().mean().backward()
        opt.step()


@pytest.mark.parametrize("case", CASES)
def test_a_step_changes_every_layers_output_equally_at_every_width(case):
    # RAdam's first five steps are plain momentum, too small to matter later: they are left out
    found = slopes(*CASES[case], skip=6 if case == "radam" else 0)
    # exact only as width -> inf: four seeds at widths 32..256 leave about .1 of noise and finite-width drift
    assert max(map(abs, found.values())) < 0.2, found


@pytest.mark.parametrize(
    ("case", "name", "power"),
    [("sgd", "norm.weight", -0.5), ("adam", "hidden.weight", 1), ("adafactor", "hidden.weight", 0.5)],
)
def test_one_learning_rate_for_all_does_not(case, name, power):
    """The check has power: without the plan the first step of SGD, Adam, Adafactor scales as n^-1/2, n, n^1/2."""
    optimizer, options = CASES[case]
    # a small rate: eight steps then add up like one
    found = slopes(optimizer, {**options, "lr": options["lr"] * 0.01}, scheme="sp")
    assert found[name] == pytest.approx(power, abs=0.25)


ROLES = {
    "input": hpt.Role("input", 16, 64, 16, 16),
    "hidden": hpt.Role("hidden", 64, 64, 16, 16),
    "readout": hpt.Role("readout", 64, 4, 16, 4),
    "vector": hpt.Role("vector", 1, 64, 1, 16),
}


@pytest.mark.parametrize(
    ("geometry", "table"),
    [
        ("gradient", {"input": 4, "hidden": 1, "readout": 1 / 4, "vector": 4}),
        ("sign", {"input": 1, "hidden": 1 / 4, "readout": 1 / 4, "vector": 1}),
        ("relative", {"input": 1, "hidden": 1 / 2, "readout": 1, "vector": 1}),
        ("spectral", {"input": 2, "hidden": 1, "readout": 1 / 2, "vector": 2}),
    ],
)
def test_the_table_of_learning_rates_at_four_times_the_width(geometry, table):
    # effective weights: THEORY's muP rows with the multipliers absorbed (readout n^-1 into the weight)
    found = {
        kind: rule_for(role, geometry, scheme_named("mup")).lr.at(role.m_in, role.m_out) for kind, role in ROLES.items()
    }
    assert found == pytest.approx(table)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        (optim.SGD, {"lr": 0.01, "weight_decay": 0.1}),
        (optim.Adafactor, {"lr": 0.01, "weight_decay": 0.1}),
        (optim.NAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
        (Lion, {"lr": 0.01, "weight_decay": 0.1}),
    ],
)
def test_independent_decay_shrinks_every_weight_as_the_base(optimizer, options):
    """With no gradient a step multiplies by 1 - lr wd, the same at every width; coupled decay leaves wd alone."""
    plan = planned(256, optimizer, options)
    model = fresh(256, plan)
    opt = build_optimizers(model, plan, {optimizer: options})
    before = copy.deepcopy(model.state_dict())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, before[name] * (1 - 0.01 * 0.1), msg=lambda m, name=name: f"{name}: {m}")
    assert {row.wd_mult for row in planned(256, optimizer, options, weight_decay="coupled")} == {1.0}


@pytest.mark.parametrize("choices", [{}, {"eps": "fixed"}])
@pytest.mark.parametrize("optimizer", [optim.Adam, optim.RMSprop, optim.Adadelta])
def test_l2_decay_keeps_its_share_of_the_gradient(optimizer, choices):
    """Where L2 joins a normalised step, wd rms(W) / rms(gradient) is what acts, and it is the same at every width."""
    share: dict[str, list[float]] = {}
    for width in WIDTHS:
        plan = planned(width, optimizer, {}, **choices)
        model = fresh(width, plan)
        (model(X) - Y).square().mean().backward()
        for group in hpt.param_groups(model, plan, lr=1.0, weight_decay=1.0):
            for name, p in zip(group["hpt_names"], group["params"], strict=True):
                if p.abs().max() > 0:
                    ratio = group["weight_decay"] * p.detach().square().mean().sqrt() / p.grad.square().mean().sqrt()
                    share.setdefault(name, []).append(float(ratio))
    assert {n: slope(v) for n, v in share.items()} == pytest.approx(dict.fromkeys(share, 0), abs=0.2)


def test_one_group_per_setting_and_ratios_survive_schedulers():
    plan = planned(128, optim.AdamW, {})
    model = fresh(128, plan)
    opt = build_optimizers(model, plan, {optim.AdamW: {"lr": 1e-2}})
    assert len(opt.param_groups) <= 4
    ratios = [g["lr_mult"] for g in opt.param_groups]
    for scheduler in (
        optim.lr_scheduler.LambdaLR(opt, lambda t: 1 / (1 + t)),
        optim.lr_scheduler.CosineAnnealingLR(opt, 10),
        optim.lr_scheduler.OneCycleLR(opt, max_lr=hpt.max_lrs(opt), total_steps=10),
    ):
        for _ in range(3):
            _steps(model, opt, 1)
            scheduler.step()
        base = opt.param_groups[0]["lr"] / ratios[0]
        assert [g["lr"] / base for g in opt.param_groups] == pytest.approx(ratios)


@pytest.mark.parametrize("kind", ["fused", "foreach", "loop"])
def test_fused_and_foreach_steps_equal_the_loop(kind):
    plan = planned(64, optim.AdamW, {})
    losses = []
    for flags in ({}, {"fused": True} if kind == "fused" else {"foreach": kind == "foreach"}):
        model = fresh(64, plan)
        opt = build_optimizers(model, plan, {optim.AdamW: {"lr": 1e-2, **flags}})
        _steps(model, opt, 5)
        losses.append((model(X) - Y).square().mean())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)


def test_transformers_adafactor_is_known_by_its_options():
    transformers = pytest.importorskip("transformers.optimization", reason="transformers is not installed")
    cls = transformers.Adafactor
    with pytest.raises(hpt.UsageError, match="ignores lr"):
        OptimizerInfo.of(cls)
    plain = OptimizerInfo.of(cls, {"relative_step": False, "scale_parameter": False})
    assert plain.geometry == "sign" and not plain.decay_in_step
    relative = OptimizerInfo.of(cls, {"relative_step": False})
    assert relative.geometry == "relative" and relative.floor == 1e-3 and relative.decay_in_step
    options = {"lr": 1e-2, "relative_step": False, "weight_decay": 0.0}
    found = slopes(cls, options)
    assert max(map(abs, found.values())) < 0.2, found


@pytest.mark.parametrize("cls", [optim.Rprop, optim.ASGD, optim.LBFGS])
def test_optimizers_without_a_rule_are_refused_with_the_reason(cls):
    with pytest.raises(hpt.UsageError, match=f"No rule scales {cls.__name__}'s learning rate: .{{20}}"):
        planned(64, cls, {})
    with pytest.raises(hpt.UsageError, match="no value per group"):
        OptimizerInfo.of(optim.Adagrad, {"initial_accumulator_value": 0.1})


def test_a_users_optimizer_is_declared_once():
    with pytest.raises(hpt.UsageError, match=r"not known. Declare it once: hptransfer.register_optimizer\(Plain"):
        planned(64, Plain, {})
    hpt.register_optimizer(Plain, "gradient", decoupled=False)
    found = slopes(Plain, {"lr": 0.1})
    assert max(map(abs, found.values())) < 0.2, found
    with pytest.raises(hpt.UsageError, match="'spectrum' is unknown"):
        hpt.register_optimizer(Plain, "spectrum")  # type: ignore[arg-type]


def test_a_subclass_is_what_its_parent_is():
    class Heir(optim.AdamW):
        pass

    info = OptimizerInfo.of(Heir)
    assert (info.geometry, info.decoupled, info.default_eps) == ("sign", True, 1e-8)


def test_settings_must_be_the_plans():
    plan = planned(64, optim.AdamW, {})
    model = fresh(64, plan)
    with pytest.raises(hpt.UsageError, match="settings are for Adam, but this plan trains with AdamW"):
        build_optimizers(model, plan, {optim.Adam: {"lr": 1e-3}})
    with pytest.raises(hpt.UsageError, match="needs an lr"):
        build_optimizers(model, plan, {optim.AdamW: {}})
    adam = planned(64, optim.Adam, {})
    with pytest.raises(hpt.UsageError, match="change its rules"):
        build_optimizers(model, adam, {optim.Adam: {"lr": 1e-3, "decoupled_weight_decay": True}})
