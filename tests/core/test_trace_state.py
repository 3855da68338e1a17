"""Tracing leaves the model as it is: on either way, whatever its forward changes is what it was before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hptransfer.core.trace import trace
from hptransfer.core.trace_run import recorded_graph


class Remembering(nn.Module):
    """Fills every kind of container, and looks at the data where asked to."""

    def __init__(self, *, reads: bool) -> None:
        super().__init__()
        self.a, self.reads = nn.Linear(4, 4), reads
        self.table: dict[int, Tensor] = {}
        self.seen, self.last = list[Tensor](), deque[Tensor](maxlen=2)
        self.aux: dict[str, Any] = {"loss": None, "all": [[]]}
        self.stats = SimpleNamespace(calls=0, largest=None)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] not in self.table:
            self.table[x.shape[0]] = torch.arange(x.shape[0]).float()[:, None]
        x = self.a(x) + self.table[x.shape[0]].cos()
        self.seen.append(x)
        self.last.append(x)
        self.aux["loss"] = x.mean()
        self.aux["all"][0].append(x)
        self.stats.calls, self.stats.largest = self.stats.calls + 1, x.max()
        return x if not self.reads or x.sum() != 0 else -x


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("traced", [trace, lambda model, args: recorded_graph(model, args, {})])
def test_containers_that_the_forward_fills_are_put_back(traced: Callable[..., Any], reads: bool) -> None:
    model, x = Remembering(reads=reads), torch.randn(3, 4)
    containers = model.table, model.seen, model.last, model.aux, model.aux["all"][0]
    assert traced(model, (x,)).ran == (reads or traced is not trace)
    assert (model.table, model.seen, list(model.last)) == ({}, [], [])
    assert model.aux == {"loss": None, "all": [[]]} and vars(model.stats) == {"calls": 0, "largest": None}
    now = model.table, model.seen, model.last, model.aux, model.aux["all"][0]
    assert all(own is was for own, was in zip(now, containers, strict=True))
    model(x)
    before = model.table[3], model.seen[0], model.stats.largest
    traced(model, (x,))
    assert all(a is b for a, b in zip((model.table[3], model.seen[0], model.stats.largest), before, strict=True))
    assert len(model.seen) == 1 and model.stats.calls == 1
