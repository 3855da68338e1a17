"""Residual branches and streams, their depth and their norms, found from the graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.graph.readings.streams import Streams, residual_streams
from hptransfer.graph.trace import trace
from tests.cases.models import CONTEXT, Shape, Transformer, seeded

TOKENS = torch.zeros(2, CONTEXT, dtype=torch.int64)


def streams(model: nn.Module, *inputs: Tensor) -> Streams:
    return residual_streams(trace(model, inputs or (TOKENS,)))


@pytest.mark.parametrize(
    ("shape", "per_block"),
    [
        (Shape(8, depth=3), 2),
        (Shape(8, depth=3, parallel=True), 1),
        (Shape(8, depth=3, post_norm=True), 2),
        (Shape(8, depth=3, norm="rms", embed_scale="float"), 2),
    ],
    ids=str,
)
def test_one_stream_with_one_branch_per_sublayer(shape: Shape, per_block: int) -> None:
    found = streams(seeded(Transformer, shape, branch=0.5))
    assert found.depths == {0: 3 * per_block}
    inside = {name for b in found.branches for name in b.parameters}
    expected = {n for n, _ in seeded(Transformer, shape).named_parameters() if n.startswith("blocks")}
    # a post-norm stands on the stream, not in a branch
    assert inside == {n for n in expected if not (shape.post_norm and ".norm_" in n)}


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("norm", ["layer", "layer-plain"])
def test_post_norm_is_told_from_a_pre_norm_stack_with_a_final_norm(depth: int, norm: str) -> None:
    """The final norm follows the last add of every pre-norm stack, even one with a single block."""
    pre = streams(seeded(Transformer, Shape(8, depth=depth, norm=norm)))
    post = streams(seeded(Transformer, Shape(8, depth=depth, norm=norm, post_norm=True)))
    assert [b.post_norm for b in pre.branches] == [False] * 2 * depth and pre.post_norm == set()
    assert all(b.post_norm for b in post.branches[:-1]) and post.post_norm == {0}


def test_a_norm_at_the_branch_s_end_is_not_post_norm() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.norms = (
                nn.ModuleList(m(8) for _ in range(3)) for m in (lambda n: nn.Linear(n, n), nn.LayerNorm)
            )

        def forward(self, x: Tensor) -> Tensor:
            for layer, norm in zip(self.layers, self.norms, strict=True):
                x = x + norm(torch.relu(layer(x)))
            return x

    found = streams(Net(), torch.randn(2, 8)).branches
    assert len(found) == 3 and not any(b.post_norm for b in found)


class Stages(nn.Module):
    """Two stages of residual convolutions with a projection between, as in a ResNet."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.one = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth))
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.two = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2 * depth))

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.one:
            x = torch.relu(x + conv(x))
        x = self.down(x)
        for conv in self.two:
            x = x + conv(torch.relu(x))
        return x


def test_stages_are_streams_of_their_own_depth() -> None:
    assert streams(Stages(2), torch.randn(1, 4, 8, 8)).depths == {0: 2, 1: 4}


def test_sums_that_are_no_residual_branches_are_left_out() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x) + torch.relu(x) + 1.0

    assert streams(Net(), torch.randn(2, 4)).branches == ()


def test_depth_ratios_reach_lr_init_and_eps_of_branches_only() -> None:
    """CompleteP, alpha = 1: branch x 1/m_L (in its last matrix), lr of Adam x m_L^0, eps x 1/m_L."""
    deep, base = seeded(Transformer, Shape(8, depth=6)), seeded(Transformer, Shape(8, depth=2))
    plan = hpt.make_plan(deep, base=base, example_inputs=(TOKENS,), scheme="completep")
    for name, row in plan.rows.items():
        last = name.endswith(("out.weight", "out.bias", "down.weight", "down.bias"))
        theta = 1 / 3 if last else 1.0
        eps = (1 / 3 if name.startswith("blocks") else 1.0) / theta
        assert (row.init_mult, row.lr_mult, row.eps_mult) == pytest.approx((theta, theta, eps)), name


def test_a_width_scheme_says_that_depth_is_not_its_business_and_leaves_the_code_s_own_factors() -> None:
    """A branch that the code multiplies by (2L)^-1/2 stays so under mup; completep puts the base's factor x 1/m_L."""
    deep = seeded(Transformer, Shape(8, depth=8), branch=8**-0.5)
    base = seeded(Transformer, Shape(8, depth=2), branch=2**-0.5)
    plan = hpt.make_plan(deep, base=base, example_inputs=(TOKENS,))
    assert plan.is_identity and plan.notes == ("depth grows 4x; scheme mup has no depth rule (completep has)",)
    plan = hpt.make_plan(deep, base=base, example_inputs=(TOKENS,), scheme="completep")
    assert plan["blocks.0.down.weight"].init_mult == pytest.approx(2 / 4)


def test_the_embedding_s_factor_is_no_branch_factor() -> None:
    """sqrt(width) on the embedding stands before the stream: it is restored to the base's under a width scheme."""
    models = [seeded(Transformer, Shape(w, depth=2, embed_scale="float")) for w in (32, 8)]
    plan = hpt.make_plan(models[0], base=models[1], example_inputs=(TOKENS,))
    assert plan["wte.weight"].init_mult == pytest.approx(0.5)


def test_post_norm_is_noted_under_a_depth_scheme() -> None:
    models = [seeded(Transformer, Shape(8, depth=d, post_norm=True)) for d in (4, 2)]
    plan = hpt.make_plan(models[0], base=models[1], example_inputs=(TOKENS,), scheme="completep")
    (note,) = plan.notes
    assert "post-norm" in note


class Spelled(nn.Module):
    """A stack whose blocks write x + F(x) in one of many ways; F is two matrices behind a norm."""

    def __init__(self, layers: int, form, width: int = 8) -> None:
        super().__init__()
        self.first, self.last, self.form = nn.Linear(4, width), nn.Linear(width, 2), form
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.up, self.down, self.beside = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(layers)) for _ in range(3)
        )
        self.lam, self.mix = nn.Parameter(torch.ones(layers)), nn.Parameter(torch.ones(layers, 1))
        self.gains = nn.ParameterList(nn.Parameter(torch.ones(width)) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        start = x = self.first(x)
        for i in range(len(self.up)):
            h = self.norms[i](x)
            x = self.form(self, i, x, start, self.down[i](torch.relu(self.up[i](h))), self.beside[i](h))
        return self.last(x)


FORMS = {
    "sum of three": lambda m, i, x, start, f, g: x + f + g,
    "stream last": lambda m, i, x, start, f, g: f + g + x,
    "stream between": lambda m, i, x, start, f, g: f + (x + g),
    "sum()": lambda m, i, x, start, f, g: sum([x, f, g]),
    "stack, sum": lambda m, i, x, start, f, g: torch.stack([x, f, g]).sum(0),
    "rsub": lambda m, i, x, start, f, g: f - (-x) + g,
    "in place": lambda m, i, x, start, f, g: x.clone().add_(f).add_(g),
    "alpha": lambda m, i, x, start, f, g: torch.add(x, f + g, alpha=0.5),
    "addcmul": lambda m, i, x, start, f, g: torch.addcmul(x, f + g, torch.ones(()), value=0.5),
    "lerp": lambda m, i, x, start, f, g: torch.lerp(x, f + g, 0.5),
    "learned scalar on the stream": lambda m, i, x, start, f, g: m.lam[i] * x + f + g,
    "learned scalar on the branch": lambda m, i, x, start, f, g: x + m.lam[i] * (f + g),
    "scalars unbound": lambda m, i, x, start, f, g: torch.unbind(m.lam)[i] * x + m.mix.select(0, i) * start + f + g,
    "start again": lambda m, i, x, start, f, g: x + start + f + g,
    "start mixed in": lambda m, i, x, start, f, g: m.lam[i] * x + m.mix[i] * start + (f + g),
    "clamp": lambda m, i, x, start, f, g: (x + f + g).clamp(-50, 50),
    "nan_to_num": lambda m, i, x, start, f, g: torch.nan_to_num(x + f + g),
    "dropout, cast": lambda m, i, x, start, f, g: nn.functional.dropout(x, 0.1).double().float() + f + g,
    "gain behind the add": lambda m, i, x, start, f, g: (x + f + g) * m.gains[i],
    "norm by hand behind the add": lambda m, i, x, start, f, g: (y := x + f + g) * (y * y).mean(-1, True).rsqrt(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_every_spelling_of_a_residual_block_has_its_depth_rule(form) -> None:
    """CompleteP from 2 to 8 layers: what F adds is multiplied by 1/4, so its last weights are, and under Adam their
    rates (2505.01618, Table 1); a gain or scalar on the stream itself has no 1/L before it, so its rate falls by 1/4.
    """
    deep, base = Spelled(8, form), Spelled(2, form)
    inputs = {"example_inputs": (torch.randn(3, 4),), "options": hpt.Options(unused="keep")}
    plan = hpt.make_plan(deep, base=base, scheme="completep", **inputs)
    for i in (0, 3, 7):
        scalar = plan[f"down.{i}.weight"].init_mult == 1  # a scalar on the branch may hold the 1/4 in their place
        expected = (1.0, 1.0) if scalar else (0.25, 0.25)
        for name in (f"down.{i}.weight", f"beside.{i}.weight"):
            assert (plan[name].init_mult, plan[name].lr_mult) == pytest.approx(expected), name
        if scalar:
            assert (plan["lam"].init_mult, plan["lam"].lr_mult) == pytest.approx((0.25, 0.25))
        assert (plan[f"up.{i}.weight"].init_mult, plan[f"up.{i}.weight"].lr_mult) == pytest.approx((1.0, 1.0))
    for name in ("lam", "mix", "gains.3"):
        if plan[name].role != "unused" and plan[name].init_mult == 1:
            assert plan[name].lr_mult == pytest.approx(0.25), name
    assert not plan.hooks


def test_layers_without_a_residual_add_are_refused_under_a_depth_rule() -> None:
    """No stream, or one that a gate of its own mixes away: there is no x + F(x) that 1/L could be put on."""
    forms = {
        "plain": lambda m, i, x, start, f, g: f + g,
        "highway": lambda m, i, x, start, f, g: x * torch.sigmoid(g) + f * (1 - torch.sigmoid(g)),
    }
    for name, form in forms.items():
        inputs = {"example_inputs": (torch.randn(3, 4),), "options": hpt.Options(unused="keep")}
        with pytest.raises(hpt.UsageError, match=r"stands in no residual branch.*depth='note'"):
            hpt.make_plan(Spelled(8, form), base=Spelled(2, form), scheme="completep", **inputs)
        noted = hpt.Options(unused="keep", depth="note")
        plan = hpt.make_plan(
            Spelled(8, form), base=Spelled(2, form), example_inputs=(torch.randn(3, 4),), scheme="completep",
            options=noted,
        )  # fmt: skip
        assert any("stands in no residual branch" in note for note in plan.notes), name
        hpt.make_plan(Spelled(8, form), base=Spelled(2, form), **inputs)  # no depth rule asked for


def test_cross_attention_s_keys_and_values_belong_to_their_layer() -> None:
    """They read the memory, not the stream, and feed the branch alone."""

    class Decoder(nn.Module):
        def __init__(self, layers: int) -> None:
            super().__init__()
            self.first, self.memory, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)
            self.layers = nn.ModuleList(
                nn.ModuleDict({n: nn.Linear(8, 8) for n in ("query", "key", "value", "out")}) for _ in range(layers)
            )

        def forward(self, x: Tensor) -> Tensor:
            memory, x = self.memory(x), self.first(x)
            for layer in self.layers:
                q, k, v = layer["query"](x), layer["key"](memory), layer["value"](memory)
                x = x + layer["out"](nn.functional.scaled_dot_product_attention(q, k, v))
            return self.last(x)

    plan = hpt.make_plan(Decoder(8), base=Decoder(2), example_inputs=(torch.randn(2, 3, 4),), scheme="completep")
    assert plan["layers.5.out.weight"].init_mult == pytest.approx(0.25)
    for name in ("query", "key", "value"):
        assert plan[f"layers.5.{name}.weight"].grad_mult == pytest.approx(0.25), name  # eps follows the branch's 1/L
    assert plan["memory.weight"].grad_mult == 1


def test_a_head_that_moves_on_behind_more_blocks_is_no_gained_layer() -> None:
    """In an nn.Sequential the head's index grows with the depth; there are as many of its kind as at the base."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.up(x)

    models = [nn.Sequential(nn.Linear(4, 8), *(Block() for _ in range(layers)), nn.Linear(8, 2)) for layers in (8, 2)]
    plan = hpt.make_plan(models[0], base=models[1], example_inputs=(torch.randn(3, 4),), scheme="completep")
    assert plan["5.up.weight"].init_mult == pytest.approx(0.25) and plan["9.weight"].init_mult == 1
