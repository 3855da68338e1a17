"""The graphs behind a plan: what their notes say, and plans without any graph, where every role is given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from tests.cases.models import MLP, PIXELS
from tests.cases.traces import ROWS, plan_of


class Untraceable(MLP):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("cannot run here")


def _as_mlp(model: nn.Module) -> nn.Module:
    twin = MLP(8)
    twin.load_state_dict(model.state_dict())
    return twin


def test_roles_for_every_parameter_make_a_plan_without_a_trace() -> None:
    hidden, wide = hpt.Role("hidden", 32, 32, 8, 8), {"fan_out": 32, "base_fan_out": 8}
    roles = {
        "first.weight": hpt.Role("input", PIXELS, 32, PIXELS, 8),
        "hidden.weight": hidden,
        "last.weight": hpt.Role("readout", 32, 5, 8, 5),
        "last.bias": hpt.Role("scalar", 1, 5, 1, 5),
        "*.bias": hpt.Role("vector", **wide),
    }
    torch.manual_seed(0)
    base = Untraceable(8)
    plan = hpt.make_plan(Untraceable(32), base=base, example_inputs=(ROWS,), roles=roles)
    traced = hpt.make_plan(MLP(32), base=_as_mlp(base), example_inputs=(ROWS,))
    for row in traced:
        assert (plan[row.name].role, plan[row.name].lr_mult) == (row.role, row.lr_mult)
    assert plan.notes[0].startswith("no trace, every role is given") and "cannot run here" in plan.notes[0]
    with pytest.raises(UsageError, match="could not be traced"):
        hpt.make_plan(Untraceable(32), base=base, example_inputs=(ROWS,), roles={"first.*": hidden})


def test_notes_say_once_why_the_models_were_run() -> None:
    class Sized(MLP):
        def forward(self, x: Tensor) -> Tensor:
            if isinstance(x, FakeTensor):
                raise RuntimeError(f"not at width {self.first.out_features}")
            return super().forward(x)

    plan = plan_of(Sized, (ROWS,))
    (note,) = plan.notes
    assert "Sized, so a copy of it was run and recorded" in note
    assert note.endswith("(torch.export: RuntimeError: not at width 32)")
