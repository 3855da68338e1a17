"""Constants in the code that differ from the base's: restored where they are a scale, left where they make a mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from tests.cases.models import CONTEXT, Shape, Transformer, seeded

TOKENS = torch.zeros(2, CONTEXT, dtype=torch.int64)


class Net(nn.Module):
    """8 -> width -> 3, with a forward of its own."""

    def __init__(self, width: int, forward) -> None:
        super().__init__()
        self.width, self.run = width, forward
        self.a, self.b, self.gain = nn.Linear(8, width), nn.Linear(width, 3), nn.Parameter(torch.ones(width))
        self.table = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def plan_of(forward, **options) -> hpt.Plan:
    models = [Net(width, forward) for width in (32, 8)]
    options = {"options": hpt.Options(unused="keep"), **options}
    return hpt.make_plan(models[0], base=models[1], example_inputs=(torch.randn(2, 8),), **options)


@pytest.mark.parametrize("kept", ["float", "buffer"])
def test_root_of_the_width_on_an_embedding(kept: str) -> None:
    models = [seeded(Transformer, Shape(w, embed_scale=kept)) for w in (32, 8)]
    plan = hpt.make_plan(models[0], base=models[1], example_inputs=(TOKENS,))
    row = plan["wte.weight"]
    assert (row.init_mult, row.lr_mult, row.held) == pytest.approx((0.5, 0.5, 0.5))
    assert "is 2.828 at the base" in row.why[1]


def test_ntk_style_weights_come_out_as_in_the_ntk_gauge_of_mup() -> None:
    """w of unit std times fan_in^-1/2 in the code: the std stays 1, Adam's rate is m^-1/2; a readout's 1/n likewise."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = torch.tanh(m.a(x))
        return F.linear(h, m.b.weight * m.width**-1.0)

    row = plan_of(forward)["b.weight"]
    assert (row.init_mult, row.lr_mult) == pytest.approx((1.0, 1.0))


def test_a_mean_in_the_code_is_a_mean_at_every_width() -> None:
    """sum / width inside a norm is no scale: without its own 1/width the norm would grow."""

    def forward(m: Net, x: Tensor) -> Tensor:
        h = m.a(x)
        h = h - h.sum(-1, keepdim=True) / m.width
        return m.b(h * torch.rsqrt((h * h).sum(-1, keepdim=True) / m.width + 1e-6) * m.gain)

    plan = plan_of(forward)
    assert not plan.hooks and not plan.notes[1:]
    assert all(len(row.why) == 1 for row in plan)


def test_a_readout_that_averages_is_a_readout_with_its_own_factor() -> None:
    """(h w).sum / n and (h w).mean are one function: both keep w and its rate."""
    summed = plan_of(lambda m, x: (torch.tanh(m.a(x)) * m.table).sum(-1) / m.width)["table"]
    averaged = plan_of(lambda m, x: (torch.tanh(m.a(x)) * m.table).mean(-1))["table"]
    for row in (summed, averaged):
        assert (row.init_mult, row.lr_mult) == pytest.approx((1.0, 1.0))


def test_a_factor_that_nothing_can_hold_is_refused_or_noted() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        return m.b(torch.tanh(m.a(x).exp() * math.sqrt(m.width)))

    with pytest.raises(hpt.UsageError, match=r"no place: mul by 5.657 in the root module is 2.828 at the base"):
        plan_of(forward)
    plan = plan_of(forward, options=hpt.Options(unused="keep", unplaced="note"))
    assert any(note.startswith("NOT APPLIED: mul by 5.657") for note in plan.notes)


def test_a_factor_before_a_weight_goes_into_that_weight() -> None:
    row = plan_of(lambda m, x: m.b(m.a(x).exp() * math.sqrt(m.width)))["b.weight"]
    assert (row.init_mult, row.lr_mult) == pytest.approx((1 / 4 / 2, 1 / 4 / 2))


def test_constants_that_do_not_depend_on_the_size_are_left() -> None:
    plan = plan_of(lambda m, x: m.b(torch.tanh(m.a(x) * 0.7) / 3))
    assert all(len(row.why) == 1 for row in plan)


def test_positions_and_angles_are_no_scales() -> None:
    """Rotary angles divide an index by the head dimension: nothing trained or fed passes there."""

    def forward(m: Net, x: Tensor) -> Tensor:
        angles = 100 ** (-torch.arange(m.width) / m.width)
        return m.b(m.a(x) * torch.cos(angles))

    assert all(len(row.why) == 1 for row in plan_of(forward))


def test_counts_and_tables_made_of_shapes_are_no_scales() -> None:
    """Integers multiplied by the width, and sinusoids of positions whose device or type is the input's."""

    def forward(m: Net, x: Tensor) -> Tensor:
        counted = m.b((x > 0).sum() * m.width * 0 + m.a(x))
        steps = torch.arange(m.width).to(x) + torch.zeros_like(x[0, :1])
        return counted + m.b(torch.cos(torch.exp(steps * (-1.0 / m.width))))

    assert all(len(row.why) == 1 for row in plan_of(forward))


def test_a_frozen_table_leaves_a_multiplier_to_the_trained_factor() -> None:
    """Rotations by sinusoids kept as a frozen parameter, shared by two layers: q and k hold attention's factor."""

    class Rotated(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.ModuleList(nn.Linear(width, width) for _ in range(3)) for _ in range(2))
            self.embed, self.head = nn.Linear(3, width), nn.Linear(width, 3)
            self.table = nn.Parameter(torch.randn(5, width), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for query, key, value in self.layers:  # pyright: ignore[reportGeneralTypeIssues]
                x = F.scaled_dot_product_attention(query(x) * self.table, key(x) * self.table, value(x))
            return self.head(x)

    plan = hpt.make_plan(Rotated(32), base=Rotated(8), example_inputs=(torch.randn(2, 5, 3),))
    assert plan["table"].held == 1 and not plan.hooks
    held = [plan[f"layers.{i}.{j}.weight"].held for i in range(2) for j in range(3)]
    assert held == pytest.approx(2 * [0.5**0.5, 0.5**0.5, 1.0])
