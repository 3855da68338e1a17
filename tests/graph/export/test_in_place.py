"""In-place writes: whoever reads a tensor afterwards depends on what was written, on either way of tracing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hptransfer.graph.graph import Graph
from hptransfer.graph.recorded.run import recorded_graph
from hptransfer.graph.trace import trace
from tests.cases.traces import TOKENS, plan_of


@pytest.mark.parametrize(
    "write",
    [
        lambda out, y: out.add_(y),
        lambda out, y: out[:1].copy_(y[:1]),
        lambda out, y: out.view(-1)[2:].mul_(y.view(-1)[2:]),
        lambda out, y: out.t().index_add_(0, torch.tensor([0]), y.t()[:1]),
    ],
)
@pytest.mark.parametrize("traced", [trace, lambda model, args: recorded_graph(model, args, {})])
def test_readers_of_a_tensor_and_its_views_depend_on_every_write(
    write: Callable[[Tensor, Tensor], Tensor], traced: Callable[..., Graph]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            out = x * 2
            view = out.view(-1)
            before = out + 0
            write(out, self.a(x))
            return before, view + 0, out + 0

    graph = traced(Net(), (torch.randn(3, 4),))
    made = set(graph.parameters.values())
    for node in graph.nodes:
        made |= {node} if any(parent in made for parent in node.all_input_nodes) else set()
    before, view, out = graph.nodes[-1].args[0]  # type: ignore[misc]
    assert before not in made and out in made
    assert (view in made) == (write.__code__.co_names[0] in {"add_"})


def test_logits_written_into_a_band_in_place_are_attention_s() -> None:
    class Band(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(17, width), nn.Linear(width, 17)
            self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            product = self.q(x) @ self.k(x).transpose(-1, -2) / math.sqrt(x.shape[-1])
            logits = torch.full_like(product, -torch.inf)
            logits[:, :, :2] = product[:, :, :2]
            logits[:, 2:, 2:] = product[:, 2:, 2:]
            return self.head(logits.softmax(-1) @ self.v(x)) if product.sum() != 0 else x

    plan = plan_of(Band, (TOKENS,))
    assert plan["k.weight"].lr_mult == pytest.approx(1 / 4 * (1 / 2) ** 0.5)
    assert any("logits x 0.5" in why for why in plan["q.weight"].why)
    assert len(plan.notes) == 1
