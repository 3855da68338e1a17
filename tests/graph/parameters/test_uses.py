"""Uses beside the role tables: what does not count as one, and what depends on the inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import hptransfer as hpt
from hptransfer.graph.ops import op
from hptransfer.graph.parameters.uses import Unsettled, Use, depends_on_inputs, hosts, inner_weights, parameter_uses
from hptransfer.graph.trace import trace
from tests.cases.models import CONTEXT, Shape, Transformer, seeded
from tests.support.versions import traces_writes


class Net(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.w, self.run = nn.Parameter(torch.randn(4, 4)), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.w, x)


def uses(forward) -> list:
    return parameter_uses(trace(Net(forward), (torch.randn(2, 4),)))["w"]


def test_reading_a_shape_or_type_is_no_use() -> None:
    assert uses(lambda w, x: x + torch.zeros_like(w).sum() + x.new_zeros(w.shape[0])) == []
    (only,) = uses(lambda w, x: x[:1].expand_as(w) @ w)
    assert only.axes == ("contracted", "produced")


def test_a_norm_of_the_weight_is_no_use_but_marks_it() -> None:
    (use,) = uses(lambda w, x: x @ (w / w.norm()))
    assert use.normalised == "whole"
    (use,) = uses(lambda w, x: x @ (w / w.norm(dim=1, keepdim=True)))
    assert use.normalised == "rows"
    (use,) = uses(lambda w, x: x @ w)
    assert use.normalised == ""


@traces_writes
def test_power_iteration_is_no_use() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(4, 4))
    (use,) = parameter_uses(trace(layer, (torch.randn(2, 4),)))["parametrizations.weight.original"]
    assert isinstance(use, Use) and (use.op, use.normalised) == ("linear", "whole")


def test_dependence_on_inputs_is_that_of_a_perturbed_input() -> None:
    graph = trace(Net(lambda w, x: (w * 2).relu() @ x.T + torch.arange(2)), (torch.randn(2, 4),))
    dependent = [op(n) for n in graph.nodes if n in depends_on_inputs(graph) and n.op == "call_function"]
    assert sorted(dependent) == ["add", "matmul", "numpy_T"]


def test_biases_know_the_weight_beside_them() -> None:
    graph = trace(seeded(Transformer, Shape(8, fused_qkv=True)), (torch.zeros(2, CONTEXT, dtype=torch.int64),))
    found = hosts(parameter_uses(graph))
    assert found["blocks.0.up.bias"] == "blocks.0.up.weight"
    assert found["blocks.0.attention.qkv.bias"] == "blocks.0.attention.qkv.weight"
    assert "norm.bias" not in found and "wpe.weight" not in found


def test_inner_weights_are_neither_first_nor_last_at_any_size() -> None:
    for width in (8, 16):
        graph = trace(seeded(Transformer, Shape(width, norm="rms")), (torch.zeros(2, CONTEXT, dtype=torch.int64),))
        found = inner_weights(graph, parameter_uses(graph))
        expected = {f"blocks.0.attention.{part}.weight" for part in ("q", "k", "v", "out")}
        assert found == expected | {"blocks.0.up.weight", "blocks.0.down.weight"}
    stack = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    graph = trace(stack, (torch.randn(2, 3),))
    assert inner_weights(graph, parameter_uses(graph)) == {"2.weight"}


def test_a_number_made_of_a_weight_that_meets_an_activation_is_a_use() -> None:
    """exp(w . w) x is no statistic of w (as the largest singular value that w is divided by is)."""
    (use,) = uses(lambda w, x: x * (w * w).sum().exp().add(1))
    assert isinstance(use, Unsettled) and use.op == "sum"


def test_a_reshape_to_the_shape_of_a_weight_is_no_use_of_it() -> None:
    assert uses(lambda w, x: torch.cat([x, x]).reshape_as(w)) == []


def test_weight_standardization_leaves_entries_of_order_one() -> None:
    """Divided by a standard deviation, not by a norm: a hidden matrix keeps n^1/2 too much; 1903.10520."""

    class Standardized(nn.Module):
        def __init__(self, width: int, by_hand: bool) -> None:
            super().__init__()
            self.a, self.w, self.by_hand = nn.Linear(3, width), nn.Parameter(torch.randn(width, width)), by_hand

        def forward(self, x: Tensor) -> Tensor:
            rows = self.w.reshape(1, len(self.w), -1)
            by_norm = F.batch_norm(rows, None, None, training=True).reshape_as(self.w)
            return F.linear(self.a(x), self.w / self.w.std(1, keepdim=True) if self.by_hand else by_norm)

    for by_hand in (False, True):
        (use,) = parameter_uses(trace(Standardized(8, by_hand), (torch.randn(2, 3),)))["w"]
        assert isinstance(use, Use) and use.normalised == "entries"
        with pytest.raises(hpt.UsageError, match=r"'w' is divided .* its output x 0\.7071"):
            hpt.make_plan(Standardized(8, by_hand), base=Standardized(4, by_hand), example_inputs=(torch.randn(2, 3),))


@traces_writes
def test_a_weight_clamped_in_place_is_used_where_it_is_read_next() -> None:
    def forward(w: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            w.clamp_(-1, 1)
        return x @ w

    found = uses(forward)
    assert [use.op for use in found] == ["matmul"] and isinstance(found[0], Use)


@pytest.mark.parametrize(
    "spread",
    [
        lambda g: g,
        lambda g: torch.stack([g] * 4),
        lambda g: torch.cat([g[None]] * 4),
        lambda g: g.expand(4),
        lambda g: torch.stack([g, g]).sum() * torch.ones(4),
    ],
)
def test_a_number_of_a_weight_is_followed_where_it_is_repeated(spread: Callable[[Tensor], Tensor]) -> None:
    own = uses(lambda w, x: (x @ w) * spread(w.mean() * 1.0))
    assert {type(use).__name__: use.op for use in own} == {"Use": "matmul", "Unsettled": "mean"}
    own = uses(lambda w, x: x @ (w / spread(w.abs().mean())))
    assert [use.op for use in own] == ["matmul"]


def test_a_matrix_kept_flat_is_not_settled() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p, self.q = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(8, 4))

        def forward(self, x: Tensor) -> Tensor:
            heads = torch.einsum("ni,hdi->nhd", x, self.q.view(2, 4, 4))  # an axis that is produced in two parts
            return x @ self.p.view(4, 4).t() + heads.sum((1, 2))[:, None]

    found = parameter_uses(trace(Flat(), (torch.randn(2, 4),)))
    assert [str(use) for use in found["p"]] == [
        "matmul that contracts and produces one axis (not understood) in the root module"
    ]
    assert [use.axes for use in found["q"] if isinstance(use, Use)] == [("produced", "contracted")]
