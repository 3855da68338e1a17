"""Weights divided by a statistic of themselves: their init is lost, and what the forward makes of that is counted.

Base 8, target 32 (m = 4). A weight whose rows have standard deviation 1 has entries of order one at any width, where a
hidden weight's shrink as m^-1/2 = .5: its output is 2 times too large. That is made up for by a constant fan_in^-1/2
in the code (scaled weight standardization, 2101.08692), or does not matter where a norm reads it (1903.10520). Adam's
rate stays the rule's 1/m: with init m^-1/2 a step turns the weight by the same angle per entry as the rule asks.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import hptransfer as hpt
from hptransfer.checks.oracle.held import following
from hptransfer.checks.oracle.subject import subject_of
from hptransfer.checks.oracle.verify import verify_plan
from tests.cases.traces import plan_of

X = (torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),)


def standardised(w: Tensor, gain: Tensor) -> Tensor:
    return (w - w.mean(1, keepdim=True)) / (w.std(1, keepdim=True) + 1e-6)


def scaled(w: Tensor, gain: Tensor) -> Tensor:
    return gain[:, None] * standardised(w, gain) / w.shape[1] ** 0.5


def scaled_by_variance(w: Tensor, gain: Tensor) -> Tensor:
    centred, variance = w - w.mean(1, keepdim=True), w.var(1, keepdim=True)
    return centred * torch.rsqrt(torch.clamp(variance * w.shape[1], min=1e-4)) * gain[:, None]


def scaled_as_in_timm(w: Tensor, gain: Tensor) -> Tensor:
    rows, factor = w.reshape(1, len(w), -1), (gain * w.shape[1] ** -0.5).view(-1)
    return F.batch_norm(rows, None, None, weight=factor, training=True, momentum=0.0, eps=1e-6).reshape_as(w)


class Lost(nn.Module):
    def __init__(self, width: int, weight: Callable[[Tensor, Tensor], Tensor], *, norm: bool, bias: bool) -> None:
        super().__init__()
        self.weight, self.norm = weight, norm
        self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)
        self.W, self.gain = nn.Parameter(torch.randn(width, width) * width**-0.5), nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(torch.relu(self.first(x)), self.weight(self.W, self.gain), self.bias)
        return self.last(torch.relu(self.gain * (F.layer_norm(x, x.shape[-1:]) if self.norm else x)))


@pytest.mark.parametrize("weight", [scaled, scaled_by_variance, scaled_as_in_timm], ids=lambda f: f.__name__)
@pytest.mark.parametrize("bias", [False, True])
def test_a_constant_of_the_code_makes_up_for_it(weight: Callable[[Tensor, Tensor], Tensor], bias: bool) -> None:
    plan = plan_of(lambda width: Lost(width, weight, norm=False, bias=bias), X)
    assert (plan["W"].init_mult, plan["W"].lr_mult) == pytest.approx((0.5, 0.25))
    assert (plan["gain"].init_mult, plan["gain"].lr_mult) == (1, 1)


@pytest.mark.parametrize("weight", [standardised, scaled], ids=lambda f: f.__name__)
def test_a_norm_behind_it_makes_up_for_it(weight: Callable[[Tensor, Tensor], Tensor]) -> None:
    plan = plan_of(lambda width: Lost(width, weight, norm=True, bias=False), X)
    assert (plan["W"].init_mult, plan["W"].lr_mult) == pytest.approx((0.5, 0.25))
    assert (plan["last.weight"].init_mult, plan["first.weight"].init_mult) == (0.25, 1)


def test_a_gain_behind_it_takes_the_factor() -> None:
    plan = plan_of(lambda width: Lost(width, standardised, norm=False, bias=False), X)
    assert (plan["W"].init_mult, plan["W"].lr_mult) == pytest.approx((0.5, 0.25))
    assert (plan["gain"].init_mult, plan["gain"].lr_mult) == pytest.approx((0.5, 0.5))
    assert plan["W"].held == pytest.approx(2)  # its output is that much larger, see Row.held


@pytest.mark.parametrize("norm", [False, True])
def test_a_bias_beside_an_output_of_another_scale_is_refused(norm: bool) -> None:
    """It loses its share of the output, a norm behind or not."""
    with pytest.raises(hpt.UsageError, match=r"'W' is divided by its own standard deviation.*output by 0\.5 yourself"):
        plan_of(lambda width: Lost(width, standardised, norm=norm, bias=True), X)


def test_what_nothing_can_make_up_for_is_refused() -> None:
    class Bare(Lost):
        def forward(self, x: Tensor) -> Tensor:
            x = F.linear(torch.relu(self.first(x)), standardised(self.W, self.gain))
            return self.last(torch.tanh(x) * self.gain)

    with pytest.raises(hpt.UsageError, match=r"no place: 'W' is divided by its own standard deviation.*output x 0\.5"):
        plan_of(lambda width: Bare(width, standardised, norm=False, bias=False), X)


def test_residual_blocks_of_standardised_convolutions_before_norms() -> None:
    """BiT: every summand of the stream is 2 times too large, and only norms read the stream."""

    class Standard(nn.Conv1d):
        def forward(self, input: Tensor) -> Tensor:
            rows = self.weight.reshape(1, self.out_channels, -1)
            rows = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-8)
            return F.conv1d(input, rows.reshape_as(self.weight), None, padding=1)

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem = nn.Conv1d(2, width, 1)
            self.start = Standard(width, width, 3, bias=False)
            self.blocks = nn.ModuleList([Standard(width, width, 3, bias=False) for _ in range(2)])
            self.norms = nn.ModuleList([nn.GroupNorm(2, width) for _ in range(3)])
            self.last = nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.start(torch.relu(self.stem(x)))
            for block, norm in zip(self.blocks, self.norms, strict=False):
                x = x + block(torch.relu(norm(x)))
            return self.last(torch.relu(self.norms[2](x)).mean(-1))

    plan = plan_of(Net, (torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0)),))
    weights = [name for name in plan.rows if name.startswith(("blocks", "start"))]
    assert [(plan[n].init_mult, plan[n].lr_mult) for n in weights] == [pytest.approx((0.5, 0.25))] * 3
    signal = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    report = verify_plan(Net, widths=(32, 64, 128), example_inputs=(signal,), seeds=2)
    assert report.verdict == "PASS", str(report)


def test_unit_rows_on_unit_activations() -> None:
    """nGPT (2410.01131): products of unit vectors, put back on the sphere, need no factor.

    Aligned, unit vectors have a product of order one at any width, so that s d^1/2 on the logits is m^1/2 too large.
    """

    class Unit(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.W = nn.Embedding(7, width), nn.Parameter(torch.randn(width, width))
            self.head, self.scale = nn.Parameter(torch.randn(9, width)), nn.Parameter(torch.ones(9))

        def forward(self, x: Tensor) -> Tensor:
            h = F.normalize(self.table(x), dim=-1)
            h = F.normalize(h + 0.1 * F.normalize(F.linear(h, F.normalize(self.W, dim=1)), dim=-1), dim=-1)
            return F.linear(h, F.normalize(self.head, dim=1)) * (h.shape[-1] ** 0.5 * self.scale)

    plan = plan_of(Unit, (torch.arange(14).view(2, 7) % 7,))
    assert not plan.hooks
    assert (plan["W"].lr_mult, plan["scale"].init_mult, plan["scale"].lr_mult) == (0.25, 0.5, 0.5)


# torch's own parametrizations


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.spectral_norm, parametrizations.weight_norm, lambda m: parametrizations.weight_norm(m, dim=1)],
    ids=["spectral norm", "weight norm", "weight norm per column"],
)
def test_a_plan_of_a_parametrized_model_applies(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Their parameters are planned, and found again, under the names that torch gives them, and scaled."""

    def build(width: int) -> nn.Module:
        layers = nn.Linear(5, width), nn.ReLU(), wrap(nn.Linear(width, width)), nn.ReLU(), nn.Linear(width, 3)
        return nn.Sequential(*layers)

    plan, model = plan_of(build, X), build(32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hpt.parametrize_(model, plan)
    assert [name for name, _ in model.named_parameters()] == list(plan.rows) == list(before)
    sizes = {n: p.detach().square().mean().sqrt().item() for n, p in model.named_parameters()}
    planned = {n: row.init_std for n, row in plan.rows.items() if row.init_std and len(row.shape) == 2}
    assert {n: sizes[n] for n in planned} == pytest.approx(planned, rel=0.3)
    assert len(hpt.param_groups(model, plan, lr=1e-3)) > 1
    assert torch.isfinite(model(*X)).all()


# Sizes that depend on the data


class Picking(nn.Module):
    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how, self.first, self.W, self.last = how, nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows = {
            "mask": lambda: x[mask],
            "nonzero": lambda: x[mask.nonzero()[:, 0]],
            "masked select": lambda: x.masked_select(mask[:, None]).view(-1, 5),
            "unique": lambda: x[torch.unique(mask.long())],
        }[self.how]()
        h = torch.relu(self.first(rows))
        return self.last(self.W(torch.cat([h, h])))


@pytest.mark.parametrize("how", ["mask", "nonzero", "masked select", "unique"])
def test_rows_chosen_by_data(how: str) -> None:
    plan = plan_of(lambda width: Picking(width, how), (X[0], torch.tensor([True, False, True, True, False, True])))
    assert (plan["W.weight"].init_mult, plan["W.weight"].lr_mult) == pytest.approx((0.5, 0.25))


# Complex weights

SPECTRAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "view": lambda a, b: torch.view_as_complex(torch.stack([a, b], -1)),
    "complex": torch.complex,
    "sum": lambda a, b: a + 1j * b,
}


@pytest.mark.parametrize("kind", sorted(SPECTRAL))
def test_complex_weights_from_two_real_ones(kind: str) -> None:
    class Turned(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)
            self.re, self.im = (nn.Parameter(torch.randn(width, width) * width**-0.5) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            return self.last(torch.view_as_real(h.to(torch.complex64) @ SPECTRAL[kind](self.re, self.im)).sum(-1))

    plan = plan_of(Turned, X)
    assert [plan[n].init_mult for n in ("re", "im")] == pytest.approx([0.5, 0.5])


def test_the_scale_of_a_complex_parameter_counts_both_parts() -> None:
    class Stored(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, width), nn.Linear(width, 3)
            self.W = nn.Parameter(torch.randn(width, width, dtype=torch.complex64) * 1j)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((torch.relu(self.first(x)).to(torch.complex64) @ self.W).abs())

    plan = plan_of(Stored, X)
    assert (plan["W"].init_mult, plan["W"].init_std) == (pytest.approx(0.5), pytest.approx(0.5, rel=0.3))


class Pre(nn.Module):
    """A stream of standardised convolutions alone (BiT's): all of it is m^1/2 as large, and only norms read it."""

    def __init__(self, width: int, *, bare: bool) -> None:
        super().__init__()
        self.bare = bare
        self.stem, self.a, self.b = nn.Linear(5, width), Standard(width), Standard(width)
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(self.stem(x), (self.norm.weight.numel(),))
        stream = self.a(x) + self.b(torch.relu(x))
        return self.last(torch.relu(self.norm(stream))) + (stream.mean(-1, keepdim=True) if self.bare else 0)


class Standard(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = Inner(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Inner(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(width, width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, standardised(self.W, self.W))


def test_modules_that_pass_on_what_a_plan_lets_grow_are_no_fault() -> None:
    report = verify_plan(lambda width: Pre(width, bare=False), widths=(32, 64, 128), example_inputs=X, seeds=2)
    (grown,) = (row for row in report.outputs if row.name == "a")
    size = grown.check("size")
    assert report.verdict == "PASS" and size is not None and size.measured == pytest.approx(0.5, abs=0.1), str(report)


def test_growth_that_the_outputs_see_is_a_fault() -> None:
    """The same claim about a stream that something other than a norm reads follows nobody."""
    plan = plan_of(lambda width: Pre(width, bare=False), X)
    for bare, expected in ((False, {"a", "a.inner", "b", "b.inner"}), (True, set[str]())):
        subject = subject_of(lambda width, bare=bare: Pre(width, bare=bare), X)
        followed = following(subject, plan, {"a.inner": 0.5, "b.inner": 0.5}, 32)
        assert {name for name, exponent in followed.items() if exponent > 0.25} == expected
