"""The role oracle: a right plan's exponents are measured on the running model, a wrong row is found and named."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.checks.oracle.depth import OverDepth, gained
from hptransfer.checks.oracle.fans import fan_in_responses
from hptransfer.checks.oracle.gradients import readings, recorded, sign_average
from hptransfer.checks.oracle.promises import promise_of
from hptransfer.checks.oracle.report import Check, OracleReport, OracleRow
from hptransfer.checks.oracle.subject import plans_by_depth, subject_of
from hptransfer.checks.oracle.verify import verify_plan
from hptransfer.checks.oracle.walk import walk
from hptransfer.core.errors import UsageError
from hptransfer.core.geometry import OptimizerInfo
from hptransfer.core.roles import Role
from hptransfer.core.rules import HALF, Power, Rule, rule_for
from hptransfer.core.training.recipe import Recipe, Scale
from hptransfer.parametrization import build as builder
from hptransfer.parametrization.make import make_plan
from hptransfer.parametrization.options import Options
from hptransfer.parametrization.plan import Plan
from tests.support.some import the_rest_slow

WIDTHS = (32, 64, 128)
VOCABULARY, LENGTH, HEADS = 20, 8, 2


class Block(nn.Module):
    """Causal attention and a two-layer MLP on a residual stream, pre-norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.blocks = nn.Embedding(VOCABULARY, width), nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(tokens))))


def tokens() -> Tensor:
    return torch.randint(0, VOCABULARY, (4, LENGTH), generator=torch.Generator().manual_seed(0))


def conv_net(width: int) -> nn.Module:
    depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5))
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), depthwise, nn.Conv2d(width, width, 3), nn.ReLU(), *head)


def verify(source: Callable[[int], nn.Module] = Transformer, inputs: Any = None, **options: Any) -> OracleReport:
    inputs = (tokens(),) if inputs is None else inputs
    return verify_plan(source, widths=WIDTHS, example_inputs=inputs, seeds=2, **options)


def check(report: OracleReport, name: str, quantity: str) -> Check:
    found = report[name].check(quantity)
    assert found is not None, str(report)
    return found


def target_plan(**options: Any) -> Plan:
    torch.manual_seed(0)
    return make_plan(Transformer(256), base=Transformer(32), example_inputs=(tokens(),), **options)


def corrupted(name: str, **changes: float | str) -> Plan:
    """An eight times wider target's plan with some numbers of one row changed."""
    plan = target_plan()
    return dataclasses.replace(plan, rows={**plan.rows, name: dataclasses.replace(plan.rows[name], **changes)})


# A right plan passes


def test_the_measured_exponents_are_those_of_the_derivation():
    report = verify()
    assert report.verdict == "PASS", str(report)
    expected = {  # fan_in, init, lr, gradient
        "embed.weight": (0, 0, 0, -1),
        "blocks.0.up.weight": (1, -0.5, -1, -1),
        "blocks.0.norm1.weight": (0, 0, 0, -1),
        "norm.bias": (0, 0, 0, -1),
        "head.weight": (1, -1, -1, 0),
    }
    for name, exponents in expected.items():
        checks = [report[name].check(q) for q in ("fan_in", "init", "lr", "gradient")]
        for found, exponent in zip(checks, exponents, strict=True):
            assert found is None or found.measured == pytest.approx(exponent, abs=0.2), (name, found)
    losses = [row.check("loss") for row in report.rows]
    assert all(abs(loss.measured) < 0.25 for loss in losses if loss is not None and not loss.unaligned)


@pytest.mark.parametrize(
    "optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor], ids=lambda o: o.__name__
)
def test_every_geometry_passes(optimizer):
    report = verify(optimizer=optimizer)
    assert report.verdict == "PASS", str(report)


def test_a_spectral_optimizer_beside_adamw_passes():
    report = verify(optimizer={"hidden": torch.optim.Muon, "rest": torch.optim.AdamW})
    assert report.verdict == "PASS", str(report)


@pytest.mark.parametrize("scheme", ["mfp", "spectral", "completep", "umup", "ntp", "ntk", "mup-no-align"])
def test_every_scheme_keeps_what_it_claims(scheme):
    report = verify(scheme=scheme)
    assert report.verdict == "PASS", str(report)


def test_the_sp_control_fails_at_its_hidden_layers():
    report = verify(scheme="sp")
    assert report.verdict == "FAIL"
    assert check(report, "blocks.0.up.weight", "lr").measured == pytest.approx(-1, abs=0.2)
    assert check(report, "blocks.0.up.weight", "lr").plan == 0


def test_convolutions_pass():
    images = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    report = verify(conv_net, (images,))
    assert report.verdict == "PASS", str(report)
    assert check(report, "2.weight", "fan_in").measured == pytest.approx(0, abs=0.1)  # depthwise: one channel each
    assert check(report, "3.weight", "fan_in").measured == pytest.approx(1, abs=0.1)


def test_a_recipe_is_verified_by_its_own_loss_and_optimizer():
    recipe = Recipe(
        build=lambda scale: Transformer(scale.width or 32),
        batches=lambda scale, seed: iter([tokens()]),
        loss=lambda model, x: F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()),
        validation=lambda: [],
        example_inputs=lambda: (tokens(),),
        base=Scale(width=32),
        name="tiny",
        optimizer=torch.optim.SGD,
    )
    report = verify_plan(recipe, seeds=3)
    assert report.verdict == "PASS", str(report)
    assert (report.subject, report.widths, report.base) == ("tiny", WIDTHS, 32)


# A wrong plan fails, and the wrong row is named

EIGHT = 8.0
WRONG = {
    "hidden declared input": ("blocks.0.up.weight", {"role": "input", "m_in": 1.0, "init_mult": 1.0, "lr_mult": 1.0}),
    "hidden declared readout": ("blocks.1.down.weight", {"role": "readout", "m_out": 1.0, "init_mult": 1 / EIGHT}),
    "readout declared hidden": ("head.weight", {"role": "hidden", "init_mult": EIGHT**-0.5}),
    "readout transposed": (
        "head.weight",
        {"role": "input", "m_in": 1.0, "m_out": EIGHT, "init_mult": 1.0, "lr_mult": 1.0, "eps_mult": 1 / EIGHT},
    ),
    "embedding declared readout": (
        "embed.weight",
        {"role": "readout", "m_in": EIGHT, "m_out": 1.0, "init_mult": 1 / EIGHT, "lr_mult": 1 / EIGHT, "eps_mult": 1.0},
    ),
    "gain declared hidden": (
        "blocks.0.norm2.weight",
        {"role": "hidden", "m_in": EIGHT, "init_mult": EIGHT**-0.5, "lr_mult": 1 / EIGHT},
    ),
    "learning rate alone": ("blocks.0.up.weight", {"lr_mult": EIGHT**-0.5}),
    "init alone": ("blocks.0.down.weight", {"init_mult": 1.0}),
    "readout init alone": ("head.weight", {"init_mult": EIGHT**-0.5}),
    "eps alone": ("blocks.0.up.weight", {"eps_mult": 1.0}),
    "bias learning rate": ("blocks.0.up.bias", {"lr_mult": 1 / EIGHT}),
}


@pytest.mark.parametrize("case", the_rest_slow(WRONG, always=3))
def test_a_corrupted_row_fails_and_is_named(case):
    name, changes = WRONG[case]
    report = verify(plan=corrupted(name, **changes))
    assert report.verdict == "FAIL", str(report)
    assert report[name].ok is False, str(report)
    assert any(reason.startswith(name) for reason in report.reasons)


@pytest.mark.parametrize("case", ["learning rate alone", "eps alone", "bias learning rate"])
def test_a_row_that_leaves_the_forward_pass_alone_is_the_only_one_blamed(case):
    name, changes = WRONG[case]
    report = verify(plan=corrupted(name, **changes))
    assert [row.name for row in report.rows if row.ok is False] == [name], str(report)


def test_a_wrong_annotation_fails():
    roles = {"blocks.*.up.weight": Role("input", 1, 256, 1, 64)}
    assert verify(roles=roles).verdict == "FAIL"


# A plan made for another size


def test_a_saved_plan_is_verified_by_its_exponents(tmp_path):
    target_plan().save(tmp_path / "plan.json")
    report = verify(plan=Plan.load(tmp_path / "plan.json"))
    assert report.verdict == "PASS", str(report)


def test_hooks_and_tied_heads_pass():
    class Tied(Transformer):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.head.weight = self.embed.weight

    report = verify(Tied)
    assert report.verdict == "PASS", str(report)


def test_an_identity_plan_has_nothing_to_verify():
    plan = make_plan(Transformer(32), base=Transformer(32), example_inputs=(tokens(),))
    with pytest.raises(UsageError, match="as wide as its base"):
        verify(plan=plan)


def test_a_plan_of_another_model_is_refused():
    net = nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 4))
    wide = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 4))
    plan = make_plan(wide, base=net, example_inputs=(torch.zeros(2, 4),))
    with pytest.raises(UsageError, match="parameters are not those"):
        verify(plan=plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": "x", "scheme": "mup"}, "either plan"),
        ({"inputs": ()}, "example_inputs"),
        ({"scheme": "nope"}, "unknown"),
        ({"source": 3}, "Recipe or a builder"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        verify(**options)


# What the report says


def test_the_report_survives_json_and_shows_both_exponents():
    report = verify()
    again = OracleReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report
    assert "head.weight" in str(report) and "-1.00 / -" in str(report)
    with pytest.raises(UsageError, match="verify_plan"):
        OracleReport.from_json({"schema": 99})


def test_frozen_parameters_are_listed_as_not_seen():
    def frozen(width: int) -> nn.Module:
        model = Transformer(width)
        model.embed.weight.requires_grad_(False)
        return model

    report = verify(frozen)
    assert report.unseen == ("embed.weight",)
    assert report.verdict == "PASS"


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    verify_plan(conv_net, widths=WIDTHS, example_inputs=(torch.ones(1, 3, 8, 8),), seeds=2)
    assert torch.equal(before, torch.get_rng_state())


# The instruments against closed forms and brute force


class Uses(nn.Module):
    """One weight per kind of use, all of width n."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.linear, self.table, self.norm = nn.Linear(n, 7), nn.Embedding(5, n), nn.LayerNorm(n)
        self.conv = nn.Conv1d(n, n, 3, padding=1, bias=False)
        self.depthwise = nn.Conv1d(n, n, 3, padding=1, groups=n, bias=False)
        self.turned, self.experts = nn.Parameter(torch.randn(n, 7)), nn.Parameter(torch.randn(2, n, 3))
        self.log_gain = nn.Parameter(torch.zeros(n))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.table(ids)) * self.log_gain.exp()
        x = self.depthwise(self.conv(x.mT)).mT
        mixed = torch.einsum("btn,enk->btek", x, self.experts)
        return self.linear(x).sum() + (x @ self.turned).sum() + mixed.sum()


@pytest.mark.parametrize("n", [64, 256])
def test_responses_to_random_signs_are_the_root_of_fan_in(n):
    torch.manual_seed(0)
    model, ids = Uses(n), torch.randint(0, 5, (8, 16))
    found = fan_in_responses(dict(model.named_parameters()), lambda: model(ids), ids, seed=0)
    expected = {
        "linear.weight": n,
        "linear.bias": 1,
        "table.weight": 1,
        "norm.weight": 1,
        "norm.bias": 1,
        "conv.weight": 3 * n,
        "depthwise.weight": 3,
        "turned": n,
        "experts": n,
        "log_gain": 1,
    }
    assert set(found) == set(expected)
    for name, fan_in in expected.items():
        (response,) = found[name].values()
        assert response**2 == pytest.approx(fan_in, rel=0.15), name  # edges of the convolutions see fewer taps


@pytest.mark.parametrize(("make", "options"), [(torch.optim.SGD, {}), (torch.optim.Adam, {"eps": 0.0})])
def test_norms_are_what_one_small_optimizer_step_changes(make, options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    x, lr, info = torch.randn(3, 6, dtype=torch.float64), 1e-7, OptimizerInfo.of(make, options)
    objective = lambda: sign_average([model(x)], 0)  # noqa: E731
    found = readings(model, dict(model.named_parameters()), objective, lambda _: info, seed=1)
    for name, parameter in model.named_parameters():
        before, kept = objective(), parameter.detach().clone()
        parameter.grad = torch.autograd.grad(before, parameter)[0]
        make([parameter], lr=lr, **options).step()
        change = (before - objective()).item() / lr
        assert change == pytest.approx(found[name].loss, rel=1e-4), name
        parameter.data.copy_(kept)


def test_a_spectral_norm_is_the_sum_of_singular_values():
    torch.manual_seed(0)
    model, x = nn.Linear(6, 5, bias=False), torch.randn(4, 6)
    info = OptimizerInfo.of(torch.optim.Muon, {"adjust_lr_fn": "match_rms_adamw"})
    objective = lambda: sign_average([model(x)], 0)  # noqa: E731
    found = readings(model, dict(model.named_parameters()), objective, lambda _: info, seed=0)["weight"]
    gradient = torch.autograd.grad(objective(), model.weight)[0]
    nuclear = float(torch.linalg.matrix_norm(gradient, "nuc"))
    assert found.loss == pytest.approx(nuclear * 0.2 * 6**0.5, rel=1e-5)
    separable = torch.autograd.grad(sign_average([model(x)], 0, separable=True), model.weight)[0]
    assert found.own == pytest.approx(
        float(separable.norm()) * 0.2 * 6**0.5, rel=1e-5
    )  # of rank one: one singular value


def test_what_a_spectral_step_moves_does_not_depend_on_how_many_samples_the_batch_has():
    info = OptimizerInfo.of(torch.optim.Muon)

    def own(width: int, batch: int) -> float:
        torch.manual_seed(0)
        model, x = nn.Linear(width, width, bias=False), torch.randn(batch, width).double()
        seen = [
            readings(model.double(), {"weight": model.weight}, lambda: model(x).mean(), lambda _: info, seed=seed)
            for seed in range(8)
        ]
        return sum(reading["weight"].own or 0.0 for reading in seen) / len(seen)

    for batch in (8, 1024):  # fewer than the width, and many more: Condition 1 of 2310.17813 holds for both
        assert abs(math.log2(own(128, batch) / own(16, batch)) / 3) < 0.1, batch


def test_a_wrong_rate_of_muon_fails_behind_a_gelu_and_with_a_large_batch(monkeypatch):
    def build(width: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(16, width), nn.GELU(), nn.Linear(width, 2 * width), nn.GELU()),
            *(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 4)),
        )

    def state() -> str:
        torch.manual_seed(0)
        pair = {"hidden": torch.optim.Muon, "rest": torch.optim.AdamW}
        plan = hpt.make_plan(
            build, base=16, target=64, verify=(16, 32, 64), example_inputs=(torch.randn(512, 16),), optimizer=pair
        )
        return plan.verification.state

    def steeper(*args: Any, **choices: Any) -> Rule:
        rule = rule_for(*args, **choices)
        return dataclasses.replace(rule, lr=rule.lr * Power(fan_in=HALF)) if args[1] == "spectral" else rule

    assert state() == "verified"
    monkeypatch.setattr(builder, "rule_for", steeper)
    assert state() == "failed"


def test_an_output_changed_in_place_is_measured_as_it_was_returned():
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(self.up(x).mul_(10.0))

    torch.manual_seed(0)
    model, x = Net(8), torch.randn(4, 3)
    with recorded(model) as outputs:
        model(x)
    torch.testing.assert_close(outputs["up"], [model.up(x)])


def test_two_weights_put_together_are_one_weight():
    """A head whose matrix is put together of two parts: each answers as the part of the sum that it takes."""

    class Head(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.embed, self.few = nn.Linear(3, width), nn.Parameter(torch.randn(8, 5) / width)
            self.rest = nn.Parameter(torch.randn(width - 8, 5) / width)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.embed(x)) @ torch.cat([self.few, self.rest])

    plan = make_plan(Head(64), base=Head(32), example_inputs=(torch.randn(4, 3),))
    assert plan["rest"].role == "readout" and not plan.notes
    report = verify_plan(Head, widths=(32, 64, 128), example_inputs=(torch.randn(64, 3),), base=32)
    check_ = check(report, "rest", "fan_in")
    assert check_.ok and check_.measured == pytest.approx(1.0, abs=0.3)


def test_a_norm_behind_a_readout_is_noted():
    """n -> 16, then a norm: it undoes 1/n, and at first gradients exceed the plan's by m^1/2."""

    def build(width: int) -> nn.Module:
        ends = nn.Linear(width, 16, bias=False), nn.LayerNorm(16), nn.Linear(16, 5)
        return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), *ends)

    (note,) = make_plan(build(128), base=build(32), example_inputs=(torch.randn(4, 3),)).notes
    assert note.startswith("4.weight makes a fixed size of the width (128 -> 16)") and "m^1/2 = 2." in note
    report = verify_plan(build, widths=(32, 64, 128), example_inputs=(torch.randn(64, 3),), base=32)
    loss = check(report, "2.weight", "loss")
    assert loss.ok is False and loss.measured == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize("forward", ["own", "unit"])
def test_a_step_over_depth_counts_where_the_branch_factor_stands(forward):
    """u-muP's branches are x L^-1/2: in a weight, whose steps shrink with it, or in the forward."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(F.gelu(self.up(F.layer_norm(x, (16,)))))

    class Stack(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)
            self.blocks = nn.Sequential(*(Block() for _ in range(depth)))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.layer_norm(self.blocks(self.first(x)), (16,)))

    x, depths, options = (
        (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)),),
        (2, 4, 8),
        Options(forward=forward),
    )
    adam: dict[type[torch.optim.Optimizer], dict[str, Any]] = {torch.optim.AdamW: {}}
    subject = dataclasses.replace(subject_of(Stack, x, options), base=2)
    plans = plans_by_depth(subject, depths, scheme="umup", optimizer=torch.optim.AdamW, options=options)
    walks = [{d: walk(subject, p, adam, d, seed, lr=1e-3) for d, p in plans.items()} for seed in range(2)]
    rows = OverDepth(walks, plans, gained(plans), promise_of("umup", plans[2].options), 0.25).rows()
    step = next(c for r in rows if r.name == "blocks.*.down.weight" for c in r.checks if c.quantity == "lr")
    assert step.ok and step.measured == pytest.approx(-1 if forward == "own" else -0.5, abs=0.1)


def row(name: str, role: str, *checks: Check) -> OracleRow:
    return OracleRow(name, (name,), role, checks, "because" if any(c.ok is False for c in checks) else "")


def test_the_report_prints_what_steps_did_to_outputs_and_what_depth_shows():
    at = {q: Check(q, 0.0, 0.125, 0.1, 0.15, ok) for q, ok in (("fan_in", True), ("change", False), ("lr", None))}
    report = OracleReport(
        "FAIL", ("blocks.*: because",), (row("w", "hidden", at["fan_in"]),), (), "m", "completep", (8, 16), 8, 2, 0.25,
        1.0, (2, 4, 8), (row("blocks.0", "output", at["change"]),), (row("blocks.*.w", "hidden", at["lr"]),)
    )  # fmt: skip
    lines = str(report).splitlines()
    outputs, deeper = (
        next(i for i, line in enumerate(lines) if line.startswith(s)) for s in ("output of", "over depths 2, 4, 8")
    )
    assert "change plan / measured" in lines[outputs] and "fan_in" not in lines[outputs]
    assert lines[outputs + 1].split() == ["blocks.0", "output", "+0.00", "/", "+0.12", "!", "DISAGREES"]
    assert "lr plan / measured" in lines[deeper] and "change" not in lines[deeper]
    assert lines[deeper + 1].split() == ["blocks.*.w", "hidden", "+0.00", "/", "+0.12", "?", "open"]
    assert not any(
        line.startswith(("output of", "over depths"))
        for line in str(dataclasses.replace(report, outputs=(), deeper=())).splitlines()
    )
