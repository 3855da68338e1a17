"""Tracing leaves the model as it is: on either way, whatever its forward changes is what it was before."""

from __future__ import annotations

import functools
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hptransfer.graph.recorded.run import recorded_graph
from hptransfer.graph.trace import trace
from tests.cases.models import PIXELS
from tests.cases.traces import ROWS, Branching
from tests.support.versions import exports_filled_lists, traces_writes


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
@pytest.mark.parametrize(
    "traced", [pytest.param(trace, marks=exports_filled_lists), lambda model, args: recorded_graph(model, args, {})]
)
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


class Stateful(nn.Module):
    """Changes everything that a forward pass can change, then fails where asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fail, self.seen = nn.BatchNorm1d(PIXELS), False, [0]
        self.drawn = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        self.drawn += random.random() + np.random.rand() + torch.rand(1)
        with torch.no_grad():
            self.norm.weight.mul_(2)
        x = x.mul_(self.drawn)
        if self.fail and x.sum() != 0:
            raise ValueError("asked to fail")
        return self.norm(x)


@traces_writes
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails: bool) -> None:
    model, inputs = Stateful().eval(), ROWS.clone()
    model.norm.train()
    model.fail = fails
    before = {key: value.clone() for key, value in model.state_dict().items()}
    hooks = {name: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for name, m in model.named_modules()}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    if fails:
        with pytest.raises(ValueError, match="asked to fail"):
            recorded_graph(model, (inputs,), {})
    else:
        recorded_graph(model, (inputs,), {})
    assert (random.random(), np.random.rand(), torch.rand(())) == expected
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {n: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for n, m in model.named_modules()} == hooks
    assert (model.training, model.norm.training, model.seen, float(model.drawn)) == (False, True, [0], 0.0)
    assert torch.equal(inputs, ROWS) and model.norm.weight.grad is None


def test_a_failed_export_leaves_no_trace_either(capfd: pytest.CaptureFixture[str]) -> None:
    model = Branching(8, "branch", free=False).eval()
    graph = trace(model, (ROWS,))
    assert graph.ran and not model.training
    assert capfd.readouterr() == ("", "")
    assert type(model(ROWS)) is Tensor


def test_attributes_set_by_the_forward_are_put_back() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.calls = nn.Linear(4, 4), 0
            self.register_buffer("largest", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = self.a(x)
            self.largest = torch.maximum(self.largest, self.last.detach().max())
            return self.last if self.last.sum() != 0 else x

    model = Net()
    graph = trace(model, (torch.randn(2, 4),))
    assert graph.ran and model.calls == 0 and not hasattr(model, "last") and model.largest == 0


@functools.lru_cache
def memoised(count: int) -> Tensor:
    return torch.arange(count).float()[:, None]


TABLES: dict[int, Tensor] = {}


class Registry(OrderedDict[str, Any]):
    """Makes something new of what it holds whenever it is asked, as transformers' table of activations does."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)()


REGISTRY = Registry(one=list, two=dict)


class Tabled(nn.Module):
    """Keeps tables beside its class, and in it, for the next call."""

    tables: dict[int, Tensor] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for tables in (TABLES, self.tables):
            REGISTRY["three"] = list
            tables.setdefault(len(x), torch.arange(len(x)).float()[:, None])
        x = self.a(x) + memoised(len(x)) + TABLES[len(x)] + self.tables[len(x)]
        return x if x.sum() != 0 else -x


def test_tables_beside_the_model_s_class_hold_no_tensors_without_values() -> None:
    model, x = Tabled(), torch.randn(3, 4)
    assert trace(model, (x,)).ran
    assert list(dict.items(REGISTRY)) == [("one", list), ("two", dict)]
    assert not TABLES and not model.tables and type(memoised(3)) is Tensor
    assert type(model(x)) is Tensor
