"""What counts as an input: tensors in objects, tokens made of strings, arrays, the forward's own noise; not masks."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from hptransfer.graph.graph import Graph
from hptransfer.graph.recorded.run import recorded_graph
from hptransfer.graph.trace import trace

TOKENS = torch.arange(16).view(2, 8) % 5
ROWS = torch.randn(2, 8, 10, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """read: what makes the first layer's input of the argument."""

    def __init__(self, width: int, first: nn.Module, read: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.read = first, read
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 5)

    def forward(self, *given: Any) -> Tensor:
        x = self.first(self.read(*given))
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.head((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v)


class Batch:
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


class Encoding(UserDict[str, Tensor]):
    """As transformers.BatchEncoding is one."""


def rows(read: Callable[..., Tensor], inputs: Any, *, tokens: bool = True) -> dict[str, hpt.Row]:
    torch.manual_seed(0)
    build = lambda width: Attention(width, nn.Embedding(17, width) if tokens else nn.Linear(10, width), read)  # noqa: E731
    base = build(8)
    return dict(hpt.make_plan(build(32), base=base, example_inputs=inputs).rows)


TEXTS = ["".join(chr(int(t)) for t in row) for row in TOKENS]


@pytest.mark.parametrize(
    ("read", "given"),
    [
        (lambda batch: batch.tokens, Batch(TOKENS)),
        (lambda batch: batch["tokens"], Encoding({"tokens": TOKENS})),
        (lambda batch: batch[0].tokens, [Batch(TOKENS)]),
        (lambda texts: torch.tensor([[ord(c) for c in text] for text in texts]), TEXTS),
        (lambda tokens: torch.from_numpy(tokens.numpy().copy()), TOKENS),
        (lambda tokens: torch.tensor(tokens.tolist()), TOKENS),
        (lambda array: torch.from_numpy(array), TOKENS.numpy()),
    ],
    ids=["object", "mapping", "objects", "strings", "through numpy", "through a list", "array"],
)
def test_inputs_in_any_form_plan_as_a_tensor(read: Callable[..., Tensor], given: Any) -> None:
    assert rows(read, (given,)) == rows(lambda tokens: tokens, (TOKENS,))


@pytest.mark.parametrize(
    ("read", "given"),
    [
        (lambda: torch.randn(2, 8, 10), ()),
        (lambda count: torch.empty(count, 8, 10).uniform_(), (2,)),
        (lambda: torch.from_numpy(np.random.rand(2, 8, 10)).float(), ()),
    ],
)
def test_noise_that_the_forward_draws_is_an_input(read: Callable[..., Tensor], given: Any) -> None:
    assert rows(read, given, tokens=False) == rows(lambda x: x, (ROWS,), tokens=False)


class Weighted(nn.Module):
    """A linear layer whose weight is changed by what is drawn or taken from outside; x comes as an argument or not."""

    def __init__(self, change: Callable[[Tensor], Tensor], *, own: bool) -> None:
        super().__init__()
        self.a, self.b, self.change, self.own = nn.Linear(10, 4), nn.Linear(4, 4), change, own

    def forward(self, x: Tensor) -> Tensor:
        x = torch.randn(2, 8, 10) if self.own else x
        for layer in (self.a, self.b):
            x = F.linear(x, self.change(layer.weight), layer.bias)
        return x


MASK = (np.arange(40) % 2).astype(np.float32)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w + 0.1 * w.abs() * torch.randn(w.shape),
        lambda w: w * (torch.rand(w.shape) < 0.5),
        lambda w: w * torch.from_numpy(MASK)[: w.numel()].view(w.shape),
    ],
    ids=["noise on weights", "dropped weights", "mask"],
)
@pytest.mark.parametrize("traced", [trace, lambda model, args: recorded_graph(model, args, {})])
def test_noise_and_masks_on_weights_are_none(
    change: Callable[[Tensor], Tensor], own: bool, traced: Callable[..., Graph]
) -> None:
    graph = traced(Weighted(change, own=own), (ROWS,))
    (first,) = [node for node in graph.inputs if node.users]
    assert (first.op == "placeholder") == (not own) and tuple(first.meta["val"].shape) == (2, 8, 10)


def test_attributes_are_no_inputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.tables = nn.Linear(10, 4), nn.Linear(3, 4), [torch.randn(8, 3)]
            self.table = torch.randn(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(self.table) + self.b(self.tables[0])

    for graph in (trace(Net(), (ROWS,)), recorded_graph(Net(), (ROWS,), {})):
        assert len(graph.inputs) == 1


@pytest.mark.parametrize("reads", [False, True])
def test_products_that_no_input_reaches_are_refused(reads: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            y = (self.q @ self.k.T * 0.5).softmax(-1)
            return y if not reads or y.sum() != 0 else -y

    with pytest.raises(UsageError, match="no op of Net depends on the example inputs"):
        trace(Net(), (ROWS,))
