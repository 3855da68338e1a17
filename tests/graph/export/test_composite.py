"""An op that torch makes of others has no row of its own: it is what those do, with as many results as it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hptransfer.core.errors import UsageError
from hptransfer.graph.evaluate import Evaluation, program
from hptransfer.graph.ops import row
from hptransfer.graph.trace import trace
from hptransfer.parametrization.make import make_plan

Combine = Callable[[Tensor, Tensor], Sequence[Tensor]]


class Net(nn.Module):
    """A forward that ends in one op of two activations, of shapes (3, d) and (d,)."""

    def __init__(self, width: int, combine: Combine) -> None:
        super().__init__()
        self.inner, self.other, self.out = nn.Linear(4, width), nn.Linear(4, width), nn.Linear(width, 2)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        parts = self.combine(self.inner(x), self.other(x)[0])
        return sum((self.out(part) for part in parts), torch.zeros(()))


def rows_of(combine: Combine) -> dict[str, tuple[float, ...]]:
    torch.manual_seed(0)
    plan = make_plan(Net(64, combine), base=Net(16, combine), example_inputs=(torch.ones(3, 4),))
    return {r.name: (r.init_mult, r.lr_mult, r.fwd_mult) for r in plan}


WRITTEN: dict[str, tuple[Combine, Combine]] = {
    "broadcast_tensors": (
        lambda a, b: torch.broadcast_tensors(a, b),
        lambda a, b: [a, b.expand(3, -1)],
    ),
    "atleast_2d": (lambda a, b: torch.atleast_2d(a, b), lambda a, b: [a, b.unsqueeze(0)]),
    "var_mean": (
        lambda a, b: [a + torch.var_mean(a, -1, keepdim=True)[1]],
        lambda a, b: [a + a.mean(-1, keepdim=True)],
    ),
    "meshgrid": (
        lambda a, b: torch.meshgrid(a[:, 0], b, indexing="ij"),
        lambda a, b: [a[:, 0].view(3, 1).expand(3, b.numel()), b.view(1, -1).expand(3, -1)],
    ),
    "broadcast after a product": (
        lambda a, b: [sum(torch.broadcast_tensors((a @ b)[:, None], a), torch.zeros(()))],
        lambda a, b: [(a @ b)[:, None].expand_as(a) + a],
    ),
    "unbind of a stack": (lambda a, b: torch.stack([a, a * b]).unbind(0), lambda a, b: [a, a * b]),
    "tensor_split": (
        lambda a, b: [sum(torch.tensor_split(torch.cat([a, a * b], -1), 2, -1), torch.zeros(()))],
        lambda a, b: [a + a * b],
    ),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_an_op_with_several_results_plans_as_what_it_is_made_of(case: str) -> None:
    composite, spelt_out = WRITTEN[case]
    assert rows_of(composite) == rows_of(spelt_out)


def test_each_result_keeps_the_scale_of_its_own_operand() -> None:
    """Their product over the width is 4 times too large in the sum that it is broadcast for, and nothing else is."""
    rows, plain = rows_of(WRITTEN["broadcast after a product"][0]), rows_of(lambda a, b: [a + b])
    assert rows["other.weight"][0] == 0.25 * plain["other.weight"][0]
    assert rows["inner.weight"] == plain["inner.weight"]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.cartesian_prod(x[0], x[1]),
        lambda x: torch.block_diag(x, x),
        lambda x: torch.linalg.multi_dot([x, x.T, x]),
        lambda x: torch.std_mean(x, 1)[1],
        lambda x: nn.functional.pairwise_distance(x, x + 1),
        lambda x: torch.kron(x, x),
        lambda x: torch.diff(x),
    ],
)
def test_what_replaces_an_op_computes_the_same(call: Callable[[Tensor], Tensor]) -> None:
    class Once(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x)

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    traced = program(Once(), (x,))
    values = dict(Evaluation(traced).run(lambda node, values: {}))
    (returned,) = traced.graph.nodes[-1].all_input_nodes
    torch.testing.assert_close(values[returned], call(x))
    assert all(row(node) is not None for node in traced.graph.nodes if node.op == "call_function")


def test_a_function_of_each_entry_needs_no_row() -> None:
    """What enters has order one, so what leaves has: the sum of products over the width takes its 1/m before it."""
    for function in (torch.lgamma, torch.special.i0e, torch.digamma):
        made = rows_of(lambda a, b, f=function: [a + f(((a * b).sum(-1, keepdim=True)).abs() + 1)])
        plain = rows_of(lambda a, b: [a + torch.sigmoid(((a * b).sum(-1, keepdim=True)).abs() + 1)])
        assert made == plain


def test_an_op_that_nothing_is_known_of_is_still_refused_by_name() -> None:
    def distances(a: Tensor, b: Tensor) -> Any:
        return [torch.cdist(a, a) @ a]

    with pytest.raises(UsageError, match="cdist"):
        rows_of(distances)


def test_recorded_models_are_written_out_as_well() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(x)
            a, b = torch.broadcast_tensors(x, x[0])
            return a + b if bool(x.sum() < 1e9) else a

    graph = trace(Branching(), (torch.ones(3, 4),))
    assert graph.ran
    assert all(row(node) is not None for node in graph.nodes if node.op == "call_function")
