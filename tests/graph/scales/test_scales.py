"""Scales counted from the graph: attention, products, softmaxes and unit vectors, whichever way they are written."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from tests.cases.models import CONTEXT, Shape, Transformer, batches, losses, seeded

TOKENS = torch.zeros(2, CONTEXT, dtype=torch.int64)
FORMS = [
    Shape(16), Shape(16, fused_qkv=True), Shape(16, attention="eager"), Shape(16, attention="eager", fused_qkv=True),
    Shape(16, attention="scaled-q"), Shape(16, attention="scaled-q", fused_qkv=True), Shape(16, qk_norm=True),
    Shape(16, attention="scaled-q", qk_norm=True), Shape(16, attention="scaled-q", qk_norm=True, fused_qkv=True),
]  # fmt: skip


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


def test_a_product_that_grows_is_kept_at_order_one() -> None:
    """q (k^T v) sums over the width once: x 1/m in all, and since nothing bends it, its start is smaller still."""
    x = torch.randn(1, 5, 3)
    plan = hpt.make_plan(Product(16), base=Product(4), example_inputs=(x,))
    assert math.prod(plan[f"{name}.weight"].held for name in "qkv") == pytest.approx(1 / 4)
    (note,) = plan.notes
    assert "at the start, where they are independent, it is smaller" in note


def divided_norm(t: Tensor) -> Tensor:
    return t / t.pow(2).sum(-1, keepdim=True).sqrt()


UNITS = {
    "normalize": lambda t: F.normalize(t, dim=-1),
    "divided": divided_norm,
    "rsqrt": lambda t: t * torch.rsqrt((t * t).sum(-1, keepdim=True) + 1e-6),
    "vector_norm": lambda t: t / torch.linalg.vector_norm(t, dim=-1, keepdim=True).clamp(min=1e-12),
    "einsum": lambda t: t * torch.einsum("...d,...d->...", t, t).unsqueeze(-1).pow(-0.5),
}


class Heads(nn.Module):
    """Queries and keys of a growing dimension, and what the test makes of them."""

    def __init__(self, width: int, forward) -> None:
        super().__init__()
        self.q, self.k, self.last, self.run = nn.Linear(3, width), nn.Linear(3, width), nn.Linear(3, 2), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self.q(x), self.k(x)) @ x)


def held(forward) -> float:
    """The factor that q and k together hold at four times the base's head dimension."""
    x = torch.randn(1, 5, 3)
    plan = hpt.make_plan(Heads(16, forward), base=Heads(4, forward), example_inputs=(x,))
    return plan["q.weight"].held * plan["k.weight"].held


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_a_cosine_has_the_same_size_at_any_head_dimension(unit) -> None:
    """q.k of vectors of unit norm is at most 1: attention by cosine takes no 1/d, and a similarity needs no rule."""
    assert held(lambda q, k: (unit(q) @ unit(k).mT).softmax(-1)) == 1
    assert held(lambda q, k: unit(q) @ unit(k).mT) == 1
    # one of the two of unit length: d entries of d^-1/2 add up to d^1/2, and only k can hold the m^-1/2
    assert held(lambda q, k: (unit(q) @ k.mT).softmax(-1)) == pytest.approx(0.5)


LOGITS = {
    "matmul": lambda q, k: q @ k.mT / q.shape[-1] ** 0.5,
    "root after": lambda q, k: (q @ k.mT).div(math.sqrt(q.shape[-1])),
    "on q": lambda q, k: (q * q.shape[-1] ** -0.5) @ k.mT,
    "quarters": lambda q, k: (q * q.shape[-1] ** -0.25) @ (k * q.shape[-1] ** -0.25).mT,
    "einsum": lambda q, k: torch.einsum("btd,bsd->bts", q, k) / q.shape[-1] ** 0.5,
    "three letters": lambda q, k: torch.einsum("btd,bsd,d->bts", q, k, torch.full(q.shape[-1:], q.shape[-1] ** -0.5)),
    "product, sum": lambda q, k: (q[:, :, None] * k[:, None]).sum(-1) / q.shape[-1] ** 0.5,
    "product, mean": lambda q, k: (q[:, :, None] * k[:, None]).mean(-1) * q.shape[-1] ** 0.5,
    "baddbmm": lambda q, k: torch.baddbmm(torch.zeros(1, 5, 5), q, k.mT, beta=0, alpha=q.shape[-1] ** -0.5),
}
WEIGHS = {
    "softmax": lambda a: a.softmax(-1),
    "hand softmax": lambda a: a.exp() / a.exp().sum(-1, keepdim=True),
    "shifted softmax": lambda a: (a - a.amax(-1, keepdim=True)).exp(),
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "masked": lambda a: a.masked_fill(torch.ones(5, 5).triu(1).bool(), -1e9).softmax(-1),
    "added mask": lambda a: (a + torch.full((5, 5), -torch.inf).triu(1)).softmax(-1),
    "softcap": lambda a: (torch.tanh(a / 30) * 30).softmax(-1),
}


@pytest.mark.parametrize("logits", [n for n in LOGITS if n != "three letters"])
def test_every_spelling_of_logits_gets_one_over_d(logits: str) -> None:
    """1/sqrt(d) in the code, one over d asked for (2203.03466, definition 4.1): (4/16)^1/2 on q and k together."""
    assert held(lambda q, k: LOGITS[logits](q, k).softmax(-1)) == pytest.approx(0.5)


@pytest.mark.parametrize("weigh", WEIGHS)
def test_logits_are_told_by_what_bends_them(weigh: str) -> None:
    assert held(lambda q, k: WEIGHS[weigh](LOGITS["matmul"](q, k))) == pytest.approx(0.5)


def test_a_softmax_over_an_axis_that_grows_has_entries_of_one_over_it() -> None:
    """Gates that share one among all n features have entries of 1/n, which the next weight makes up for; those over
    positions do not, and an output that sums to one is left as it is.
    """

    class Gate(nn.Module):
        def __init__(self, width: int, axis: int) -> None:
            super().__init__()
            self.up, self.gate, self.axis = nn.Linear(3, width), nn.Linear(width, width), axis
            self.down = nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            return self.down(x * self.gate(x).softmax(self.axis))

    x = torch.randn(1, 5, 3)
    made_up = hpt.make_plan(Gate(16, -1), base=Gate(4, -1), example_inputs=(x,))["down.weight"]
    plain = hpt.make_plan(Gate(16, 1), base=Gate(4, 1), example_inputs=(x,))["down.weight"]
    assert (made_up.init_mult, made_up.lr_mult) == pytest.approx((4 * plain.init_mult, 4 * plain.lr_mult))
    shares = [nn.Sequential(nn.Linear(3, width), nn.Softmax(-1)) for width in (16, 4)]
    assert hpt.make_plan(shares[0], base=shares[1], example_inputs=(x,))["0.weight"].init_mult == 1
    eager = seeded(Transformer, Shape(16, attention="eager"))
    shorter = hpt.make_plan(eager, base=eager, example_inputs=(TOKENS,), base_example_inputs=(TOKENS[:, :2],))
    assert shorter.is_identity


@pytest.mark.parametrize(
    ("turn", "power"),
    [
        (lambda x: torch.fft.fft(x).real, 0.5),
        (lambda x: torch.fft.fft(x, norm="ortho").real, 0.0),
        (lambda x: torch.fft.fft(x, norm="forward").real, -0.5),
        (lambda x: torch.fft.ifft(x).real, -0.5),
        (lambda x: torch.fft.ifft(x, norm="forward").real, 0.5),
        (lambda x: torch.fft.fft(x, dim=1).real, 0.0),
        (lambda x: torch.fft.fftn(x, dim=(1, 2)).imag, 0.5),
        (lambda x: torch.fft.irfft(torch.fft.rfft(x)), 0.0),
        (lambda x: torch.fft.irfft(torch.fft.rfft(x, norm="ortho"), norm="backward"), -0.5),
        (lambda x: torch.fft.hfft(x)[..., : x.shape[-1]], 0.5),
    ],
)
def test_a_fourier_transform_keeps_the_sum_of_squares(turn, power: float) -> None:
    """Parseval: behind a transform over the width, entries are m^power as large; a hook on it takes that back."""

    class Mix(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return turn(x)

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last, self.mix = nn.Linear(3, width), nn.Linear(width, 3), Mix()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).tanh()
            return self.last(F.layer_norm(x + self.mix(x), x.shape[-1:]))

    plan = hpt.make_plan(Net(128), base=Net(32), example_inputs=(torch.randn(2, 4, 3),))
    expected = [("mix", "output", pytest.approx(4**-power, rel=0.05))] if power else []
    assert [(hook.module, hook.where, hook.factor) for hook in plan.hooks] == expected
    sizes = [turn(torch.randn(64, 4, n, generator=torch.Generator().manual_seed(n))).std() for n in (32, 128)]
    assert float(sizes[1] / sizes[0]) == pytest.approx(4**power, rel=0.1)


@pytest.mark.parametrize("norm", [lambda x: F.layer_norm(x, x.shape[-1:]), lambda x: x / x.norm(dim=-1, keepdim=True)])
def test_a_product_under_a_norm_is_noted_once(norm) -> None:
    """Linear attention over heads that grow: whichever way the norm is written and whatever stands between."""

    class Linear(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.q, self.k = nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, width)
            self.last = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            products = self.q(x) @ self.k(x).mT
            return self.last(norm((products + products).flip(-1)))

    plan = hpt.make_plan(Linear(32), base=Linear(8), example_inputs=(torch.randn(2, 5, 3),))
    assert sum("a norm reads the product" in note for note in plan.notes) == 1


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
