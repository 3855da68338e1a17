"""What the data decides in a recorded run: branches, numbers read off it, other weights; none is the code's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hptransfer.graph import trace as tracing
from hptransfer.graph.readings.constants import constants
from hptransfer.graph.recorded.run import recorded_graph
from tests.cases.models import PIXELS
from tests.cases.traces import ROWS, Branching, plan_of


@pytest.mark.parametrize("how", ["branch", "item", "numpy", "tolist", "nonzero"])
def test_control_flow_on_data_plans_as_the_code_without_it(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    free = plan_of(lambda width: Branching(width, how, free=True), (ROWS,))
    if how in {"tolist", "nonzero"}:  # some versions of torch.export can
        monkeypatch.setattr(tracing, "exported_program", lambda *args: 1 / 0)
    plan = plan_of(lambda width: Branching(width, how, free=False), (ROWS,))
    assert plan.rows == free.rows
    assert "Branching, so a copy of it was run and recorded" in plan.notes[0]


class ReadFactor(nn.Module):
    """x times a number that is read off the data: `through` Python or not."""

    def __init__(self, width: int, *, through: bool) -> None:
        super().__init__()
        self.through = through
        self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        largest = x.detach().abs().max()
        return self.last(x / (math.sqrt(largest.item()) if self.through else largest.sqrt()) * math.sqrt(x.shape[-1]))


def test_numbers_read_off_the_data_are_no_constants() -> None:
    plan = plan_of(lambda width: ReadFactor(width, through=True), (ROWS,))
    assert plan.rows == plan_of(lambda width: ReadFactor(width, through=False), (ROWS,)).rows
    assert any("factors read off the data" in note for note in plan.notes)
    assert [c.value for c in constants(recorded_graph(ReadFactor(9, through=True), (ROWS,), {}))] == [3.0]


def test_weights_that_do_not_suit_the_model_are_drawn_anew() -> None:
    runs: list[float] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            runs.append(float(self.a.weight.sum()))
            if len(runs) == 2:
                raise ValueError("not with these weights")
            return self.a(x) * float(self.a(x).abs().max())

    graph = recorded_graph(Net(), (torch.randn(2, 4),), {})
    assert len(set(runs)) == len(runs) == 4
    assert constants(graph) == []


def test_a_constant_of_a_module_that_other_weights_do_not_reach_is_the_code_s() -> None:
    class Side(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2.0

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.side = nn.Linear(4, 4), Side()
            nn.init.ones_(self.a.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.side(self.a(x)) if float(self.a.weight.detach().std()) == 0 else self.a(x)

    assert [c.value for c in constants(recorded_graph(Net(), (torch.randn(2, 4),), {}))] == [2.0]
