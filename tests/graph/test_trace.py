"""What tracing refuses, and models on the meta device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from hptransfer.graph import trace as tracing
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.recorded import copied as trace_copy
from hptransfer.graph.trace import trace
from tests.cases.traces import ROWS, Branching


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("no export in this test")

    monkeypatch.setattr(tracing, "exported_program", refuse)


def test_both_reasons_and_the_annotation_are_told() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() != 0:
                raise KeyError("no such way")
            return self.a(x)

    with pytest.raises(
        UsageError, match=r"GuardOnDataDependent.*KeyError: 'no such way'.*roles=\{'name or glob': Role"
    ):
        trace(Net(), (torch.randn(2, 4),))


def test_a_meta_model_is_given_values_on_the_cpu() -> None:
    build = lambda width: Branching(width, "branch", free=False)  # noqa: E731
    torch.manual_seed(0)
    base = build(8)
    real = hpt.make_plan(build(32), base=base, example_inputs=(ROWS,))
    with torch.device("meta"):
        target = build(32)
    plan = hpt.make_plan(target, base=base, example_inputs=(ROWS.to("meta"),))
    assert plan.rows == real.rows
    assert all(p.device.type == "meta" for p in target.parameters())


def test_a_model_too_large_to_copy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_copy, "COPY_LIMIT", 100)
    with pytest.raises(UsageError, match=r"could not be traced .*data-dependent.* take 0.0 GiB, and a model is copied"):
        trace(Branching(8, "branch", free=False), (ROWS,))


def test_a_number_read_off_a_meta_buffer_is_refused(no_export: None) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.tensor(3.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * math.sqrt(self.factor.item())

    with torch.device("meta"):
        model = Net()
    with pytest.raises(UsageError, match="reads the value of buffer 'factor', which is on the meta device"):
        trace(model, (ROWS,))
    assert [c.value for c in constants(trace(Net(), (ROWS,)))] == [pytest.approx(3**0.5)]
