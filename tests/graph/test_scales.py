"""Attention found from the graph, with the whole constant that the code puts on the logits, wherever it puts it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.graph.trace import trace
from tests.cases.models import CONTEXT, Shape, Transformer, batches, losses, seeded

TOKENS = torch.zeros(2, CONTEXT, dtype=torch.int64)
FORMS = [
    Shape(16), Shape(16, fused_qkv=True), Shape(16, attention="eager"), Shape(16, attention="eager", fused_qkv=True),
    Shape(16, attention="scaled-q"), Shape(16, attention="scaled-q", fused_qkv=True), Shape(16, qk_norm=True),
    Shape(16, attention="scaled-q", qk_norm=True), Shape(16, attention="scaled-q", qk_norm=True, fused_qkv=True),
]  # fmt: skip


@pytest.mark.parametrize("shape", FORMS, ids=str)
def test_the_scale_is_found_in_every_form(shape: Shape) -> None:
    (site,) = attentions(trace(seeded(Transformer, shape), (TOKENS,)))
    assert (site.head_dim, site.scale) == (8, pytest.approx(8**-0.5))


@pytest.mark.parametrize("shape", FORMS, ids=str)
@pytest.mark.parametrize("law", ["1/d", "1/sqrt(d)"])
def test_every_form_gets_the_same_function(shape: Shape, law) -> None:
    """Whatever the code looks like, logits are q.k sqrt(d_base)/d, or q.k/sqrt(d): as if written by hand."""
    base = seeded(Transformer, Shape(**{**vars(shape), "width": 4}))
    model = seeded(Transformer, shape)
    plan = hpt.make_plan(model, base=base, example_inputs=(TOKENS,), options=hpt.Options(attention=law))
    by_hand = seeded(Transformer, shape, scale=lambda d: 2**0.5 / d if law == "1/d" else d**-0.5)
    factors = {name: row.held for name, row in plan.rows.items() if "attention" in name}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(factors.get(name, 1.0))
            if shape.fused_qkv and not shape.qk_norm and name.endswith("attention.out.weight"):
                parameter.div_(factors["blocks.0.attention.qkv.weight"])
    x = batches("transformer", 1)[0][0]
    torch.testing.assert_close(model(x), by_hand(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention_gets_one_over_d_in_both_of_its_paths(need_weights: bool) -> None:
    """torch's own module scales q before the product when weights are asked for, and sdpa inside otherwise."""

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, width), nn.Linear(width, 3)
            self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.attention(x, x, x, need_weights=need_weights)[0])

    x = torch.randn(2, 5, 3)
    model, base = Net(32), Net(8)
    (site,) = attentions(trace(model, (x,)))
    assert (site.head_dim, site.scale) == (16, pytest.approx(0.25))
    plan = hpt.make_plan(model, base=base, example_inputs=(x,))
    # logits x sqrt(4)/16 over 1/sqrt(16) = 1/2: half of it on q and on k, taken back from v by the output projection
    assert plan["attention.in_proj_weight"].held == pytest.approx(0.5**0.5)
    assert plan["attention.out_proj.weight"].init_mult == pytest.approx(0.5 * 2**0.5)


def test_layer_dependent_scales_and_head_dimensions_are_compared_layer_by_layer() -> None:
    """GPT-2's scale_attn_by_inverse_layer_idx: at the base's own size the plan must be the identity."""

    class Layered(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer(width, i) for i in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    class Layer(nn.Module):
        def __init__(self, width: int, i: int) -> None:
            super().__init__()
            self.q, self.k, self.i = nn.Linear(width, width), nn.Linear(width, width), i

        def forward(self, x: Tensor) -> Tensor:
            q, k = self.q(x), self.k(x)
            logits = q @ k.mT / q.shape[-1] ** 0.5 / (self.i + 1)
            return logits.softmax(-1) @ x * (1.0 + self.i)

    x = torch.randn(1, 3, 8)
    assert hpt.make_plan(Layered(8), base=Layered(8), example_inputs=(x,)).is_identity
    plan = hpt.make_plan(
        Layered(32), base=Layered(8), example_inputs=(torch.randn(1, 3, 32),), base_example_inputs=(x,)
    )
    assert {round(plan[f"layers.{i}.q.weight"].held, 12) for i in range(3)} == {round(0.5**0.5, 12)}


def test_a_scale_that_depends_on_the_width_but_not_on_the_head_is_restored() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.q, self.k, self.width = nn.Linear(width, 8), nn.Linear(width, 8), width

        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(self.q(x), self.k(x), x, scale=1 / self.width)

    given = {"example_inputs": (torch.randn(1, 3, 32),), "base_example_inputs": (torch.randn(1, 3, 8),)}
    plan = hpt.make_plan(Net(32), base=Net(8), **given)
    assert plan["q.weight"].held * plan["k.weight"].held == pytest.approx(4.0)


class Product(nn.Module):
    """Linear attention: products of activations with no softmax."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, width, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return q @ (k.mT @ v)


def test_products_that_no_rule_scales_are_noted() -> None:
    x = torch.randn(1, 5, 3)
    assert [p.contracted for p in unscaled_products(trace(Product(16), (x,)))] == [5, 16]
    plan = hpt.make_plan(Product(16), base=Product(4), example_inputs=(x,))
    (note,) = plan.notes
    assert "multiplied over an axis that grows (4 -> 16) with no softmax" in note
    einsum = trace(Wrap(lambda q, k: torch.einsum("btd,bsd->bts", q, k)), (x, x))
    assert [p.contracted for p in unscaled_products(einsum)] == [3]


def test_a_cosine_has_the_same_size_at_any_head_dimension() -> None:
    """q.k of vectors of unit norm is at most 1: attention by cosine takes no 1/d, and a similarity needs no rule."""
    x = torch.randn(1, 5, 3)
    for unit in (lambda t: F.normalize(t, dim=-1), lambda t: t / t.pow(2).sum(-1, keepdim=True).sqrt()):
        cosine = lambda q, k, unit=unit: unit(q) @ unit(k).mT  # noqa: E731
        assert attentions(trace(Wrap(lambda q, k, f=cosine: f(q, k).softmax(-1)), (x, x))) == []
        assert unscaled_products(trace(Wrap(cosine), (x, x))) == []
        one_sided = trace(Wrap(lambda q, k, f=unit: (f(q) @ k.mT).softmax(-1)), (x, x))
        assert [site.head_dim for site in attentions(one_sided)] == [3]


def test_a_softmax_over_an_axis_that_grows_is_noted() -> None:
    """Gates that share one among all n features have entries of 1/n; those over positions do not."""

    class Gate(nn.Module):
        def __init__(self, width: int, axis: int) -> None:
            super().__init__()
            self.up, self.gate, self.axis = nn.Linear(3, width), nn.Linear(width, width), axis

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            return x * self.gate(x).softmax(self.axis)

    x = torch.randn(1, 5, 3)
    (note,) = hpt.make_plan(Gate(16, -1), base=Gate(4, -1), example_inputs=(x,)).notes
    assert "softmax runs over an axis that grows (4 -> 16)" in note
    assert hpt.make_plan(Gate(16, 1), base=Gate(4, 1), example_inputs=(x,)).notes == ()
    eager = seeded(Transformer, Shape(16, attention="eager"))
    shorter = hpt.make_plan(eager, base=eager, example_inputs=(TOKENS,), base_example_inputs=(TOKENS[:, :2],))
    assert shorter.notes == ()


class Wrap(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.run, self.unit = forward, nn.Parameter(torch.ones(()))

    def forward(self, *args: Tensor) -> Tensor:
        return self.run(*args) * self.unit


def test_trained_twins_of_two_forms_stay_together() -> None:
    """Constant on q beside a fused projection: the form that once lost its d twice trains as the plain one does."""
    found = {}
    for shape in (Shape(16, fused_qkv=True), Shape(16, fused_qkv=True, attention="scaled-q")):
        model, base = seeded(Transformer, shape), seeded(Transformer, Shape(**{**vars(shape), "width": 4}))
        plan = hpt.make_plan(model, base=base, example_inputs=(TOKENS,))
        hpt.parametrize_(model, plan)
        groups = hpt.param_groups(model, plan, lr=1e-2)
        found[shape.attention] = losses(model, torch.optim.AdamW(groups), batches("transformer", 1) * 10)
    torch.testing.assert_close(found["sdpa"], found["scaled-q"], rtol=1e-9, atol=0)
    assert math.isfinite(found["sdpa"][-1]) and found["sdpa"][-1] < found["sdpa"][0]
