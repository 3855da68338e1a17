"""Scaling the holders by theta does to the model exactly what multiplying the activation by theta does: brute force."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from hptransfer.graph.graph import Graph, users
from hptransfer.graph.ops import op
from hptransfer.graph.readings.scale_flow import Holders, NotAbsorbed, ScaleFlow
from hptransfer.graph.trace import trace
from tests.cases.models import CONTEXT, VOCAB, Shape, Transformer, seeded
from tests.cases.products import products
from tests.oracles.flow import output_of, run_graph

THETA = 0.37


class Random(nn.Module):
    """A stack of randomly chosen steps on [2, 3, 4]: affine maps, gates, products, norms, residuals, shared weights."""

    def __init__(self, seed: int, steps: int = 7) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.plan = [draw.choice(sorted(k for k in dir(self) if k.startswith("step_"))) for _ in range(steps)]
        self.maps = nn.ModuleList(nn.Linear(4, 4, bias=draw.random() < 0.5) for _ in range(steps))
        self.wide = nn.ModuleList(nn.Linear(4, 12) for _ in range(steps))
        self.norms = nn.ModuleList(nn.LayerNorm(4, elementwise_affine=draw.random() < 0.6) for _ in range(steps))
        self.gains = nn.ParameterList(nn.Parameter(torch.rand(4) + 0.5) for _ in range(steps))
        self.matrices = nn.ParameterList(nn.Parameter(torch.randn(4, 4)) for _ in range(steps))

    def forward(self, x: Tensor) -> Tensor:
        for i, name in enumerate(self.plan):
            x = getattr(self, name)(i, x)
        return x

    def step_map(self, i: int, x: Tensor) -> Tensor:
        return self.maps[i](x)

    def step_shared(self, i: int, x: Tensor) -> Tensor:
        return self.maps[0](x)

    def step_relu(self, i: int, x: Tensor) -> Tensor:
        return torch.relu(x)

    def step_tanh(self, i: int, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def step_norm(self, i: int, x: Tensor) -> Tensor:
        return self.norms[i](x)

    def step_gain(self, i: int, x: Tensor) -> Tensor:
        return x * self.gains[i]

    def step_one_plus_gain(self, i: int, x: Tensor) -> Tensor:
        return x * (1 + self.gains[i])

    def step_residual(self, i: int, x: Tensor) -> Tensor:
        return x + self.maps[i](torch.relu(x))

    def step_gate(self, i: int, x: Tensor) -> Tensor:
        gate, value, _ = self.wide[i](x).chunk(3, -1)
        return F.silu(gate) * value

    def step_square(self, i: int, x: Tensor) -> Tensor:
        return x * x

    def step_self_product(self, i: int, x: Tensor) -> Tensor:
        return x * self.maps[i](x)

    def step_normalise(self, i: int, x: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1).sqrt()

    def step_attention(self, i: int, x: Tensor) -> Tensor:
        q, k, v = self.wide[i](x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v) @ self.matrices[i]

    def step_eager_attention(self, i: int, x: Tensor) -> Tensor:
        q, k, v = self.wide[i](x).chunk(3, -1)
        return self.maps[i]((q @ k.transpose(-1, -2)).softmax(-1) @ v)

    def step_einsum(self, i: int, x: Tensor) -> Tensor:
        return torch.einsum("...i,io->...o", x, self.matrices[i])

    def step_masked(self, i: int, x: Tensor) -> Tensor:
        return self.maps[i](x).masked_fill(torch.eye(3, 4, dtype=torch.bool), 0.0)

    def step_concatenate(self, i: int, x: Tensor) -> Tensor:
        both = torch.cat([self.maps[i](x)[..., :2], x[..., 2:]], -1)
        return both - both.mean(-1, keepdim=True)


def assert_same_as_multiplied(
    model: nn.Module, inputs: Tensor, targets: list[fx.Node], consumers: set[fx.Node], graph: Graph, held: Holders
) -> None:
    """Scaling the holders equals multiplying `targets` by THETA where `consumers` read them."""
    plain = {name: parameter.detach() for name, parameter in model.named_parameters()}
    factors = dict.fromkeys(held.scaled, THETA) | dict.fromkeys(held.compensated, 1 / THETA)
    scaled = {name: values * factors.get(name, 1.0) for name, values in plain.items()}
    multiplied = run_graph(graph, plain, [inputs], lambda c, o: THETA if c in consumers and o in targets else 1)
    torch.testing.assert_close(
        output_of(run_graph(graph, scaled, [inputs])), output_of(multiplied), rtol=1e-9, atol=1e-12
    )


def _is_inner_activation(node: fx.Node) -> bool:
    readers = users(node)
    computed = node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
    return computed and bool(readers) and not any(op(r) == "output" for r in readers)


@pytest.mark.parametrize("block", [5, 8, *(pytest.param(b, marks=pytest.mark.slow) for b in (0, 1, 2, 3, 4, 6, 7, 9))])
def test_holders_of_any_activation_of_random_nets_do_what_multiplying_it_does(block: int) -> None:
    absorbed = refused = 0
    for seed in range(block * 12, block * 12 + 12):
        net = seeded(Random, seed, seed=seed)
        x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        graph = trace(net, (x,))
        flow = ScaleFlow(graph)
        for node in filter(_is_inner_activation, graph.nodes):
            for consumers in {frozenset(users(node)), frozenset(users(node)[:1])}:
                held = flow.holders([node], consumers=consumers)
                if isinstance(held, Holders):
                    absorbed += 1
                    assert_same_as_multiplied(net, x, [node], set(consumers), graph, held)
                else:
                    refused += 1
    assert absorbed > 30 and refused > 30  # both outcomes are met often


VARIANTS = [
    Shape(8), Shape(8, fused_qkv=True), Shape(8, attention="eager"), Shape(8, attention="scaled-q", fused_qkv=True),
    Shape(8, qk_norm=True), Shape(8, fused_qkv=True, qk_norm=True), Shape(8, parallel=True), Shape(8, post_norm=True),
    Shape(8, bias=False, norm="rms"),
]  # fmt: skip


@pytest.mark.parametrize("shape", VARIANTS, ids=str)
def test_attention_logits_are_held_by_q_and_k(shape: Shape) -> None:
    model = seeded(Transformer, shape)
    tokens = torch.arange(4 * CONTEXT).view(4, CONTEXT) % VOCAB
    graph = trace(model, (tokens,))
    site = products(graph)[0]
    held = ScaleFlow(graph).holders([site.left, site.right], consumers=[site.consumer])
    assert isinstance(held, Holders)
    assert_same_as_multiplied(model, tokens, [site.left, site.right], {site.consumer}, graph, held)


def test_fused_projection_is_compensated_by_the_output_projection() -> None:
    graph = trace(seeded(Transformer, Shape(8, fused_qkv=True)), (torch.zeros(4, CONTEXT, dtype=torch.int64),))
    site = products(graph)[0]
    held = ScaleFlow(graph).holders([site.left, site.right], consumers=[site.consumer])
    prefix = "blocks.0.attention"
    assert held == Holders(
        frozenset({f"{prefix}.qkv.weight", f"{prefix}.qkv.bias"}), frozenset({f"{prefix}.out.weight"})
    )


@pytest.mark.parametrize(("norm", "holder"), [("layer", {"norm.weight", "norm.bias"}), ("rms", {"norm.weight"})])
def test_input_of_a_tied_head_is_held_by_the_final_norm(norm: str, holder: set[str]) -> None:
    held = head_input_holders(Shape(8, norm=norm, tied=True))
    assert isinstance(held, Holders) and held.scaled == holder and not held.compensated


@pytest.mark.parametrize("norm", ["layer-plain", "rms-plain", "rms-1+w"])
def test_a_norm_without_a_plain_gain_holds_nothing(norm: str) -> None:
    assert isinstance(head_input_holders(Shape(8, norm=norm, tied=True)), NotAbsorbed)


def head_input_holders(shape: Shape) -> Holders | NotAbsorbed:
    graph = trace(seeded(Transformer, shape), (torch.zeros(4, CONTEXT, dtype=torch.int64),))
    head = next(node for node in reversed(graph.nodes) if op(node) == "linear")
    return ScaleFlow(graph).holders([head.args[0]], consumers=[head])


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: (lambda y: y * y)(m.a(x)),
        lambda m, x: (lambda y: y / y.norm())(m.a(x)),
        lambda m, x: torch.tanh(m.a(x)),
        lambda m, x: m.a(x) + 1.0,
        lambda m, x: m.a(m.a(x)),
    ],
    ids=["square", "own norm", "tanh", "constant added", "weight used twice"],
)
def test_what_does_not_scale_in_proportion_is_refused(forward) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(forward(self, x))

    graph = trace(Net(), (torch.randn(2, 4),))
    last = next(node for node in reversed(graph.nodes) if op(node) == "linear")
    held = ScaleFlow(graph).holders([last.args[0]], consumers=[last])
    assert isinstance(held, NotAbsorbed) and held.reason


def test_the_largest_entries_scale_but_the_larger_of_two_does_not() -> None:
    class Net(nn.Module):
        def __init__(self, pooled) -> None:
            super().__init__()
            self.a, self.last, self.pooled = nn.Linear(4, 4), nn.Linear(4, 4), pooled

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.pooled(self.a(x)))

    for pooled in (lambda y: y.max(dim=0).values, lambda y: y.amax(0), lambda y: y.min(dim=0).values):
        graph = trace(Net(pooled), (torch.randn(2, 4),))
        last = next(node for node in reversed(graph.nodes) if op(node) == "linear")
        assert ScaleFlow(graph).holders([last.args[0]], consumers=[last]) == Holders(frozenset({"a.weight", "a.bias"}))
    graph = trace(Net(lambda y: torch.max(y, torch.ones(()))), (torch.randn(2, 4),))
    last = next(node for node in reversed(graph.nodes) if op(node) == "linear")
    assert isinstance(ScaleFlow(graph).holders([last.args[0]], consumers=[last]), NotAbsorbed)
