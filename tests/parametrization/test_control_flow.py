"""Target and base that the data led along different branches: refused where the plan would compare what differs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.errors import UsageError
from tests.cases.models import PIXELS
from tests.cases.traces import ROWS


class Fork(nn.Module):
    """Multiplies by 1/2 in one branch and by the width in the other."""

    def __init__(self, width: int, *, left: bool, half: float = 0.5) -> None:
        super().__init__()
        self.left, self.half = left, half
        self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * self.half if (x.square().sum() > 0) == self.left else x.tanh() * x.shape[-1]
        return self.last(x * 3.0)


def test_other_branches_at_the_base_are_refused_where_constants_stand_in_them() -> None:
    base = Fork(8, left=False)
    with pytest.raises(UsageError, match="along different branches in the root module: their constants do not"):
        hpt.make_plan(Fork(32, left=True), base=base, example_inputs=(ROWS,))
    assert hpt.make_plan(Fork(32, left=True), base=Fork(8, left=True), example_inputs=(ROWS,)).rows


class Loop(nn.Module):
    """As many rounds of one constant as rows have a positive sum, then another constant."""

    def __init__(self, width: int, after: float, *, flip: bool) -> None:
        super().__init__()
        self.after, self.flip = after, flip
        self.first, self.last = nn.Linear(PIXELS, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        rounds = int((x.sum(-1) > 0).sum())
        x = self.first(x)
        for _ in range(len(x) - rounds if self.flip else rounds):
            x = x * 2.0
        return self.last(x * self.after)


def test_a_loop_run_more_often_must_not_shift_constants() -> None:
    inputs = (torch.tensor([[1.0] * PIXELS, [1.0] * PIXELS, [-1.0] * PIXELS]),)  # two rounds, or one
    with pytest.raises(UsageError, match="their constants do not correspond"):
        hpt.make_plan(Loop(32, 8.0, flip=False), base=Loop(8, 4.0, flip=True), example_inputs=inputs)
    torch.manual_seed(0)
    base = Loop(8, 2.0, flip=True)
    same = hpt.make_plan(Loop(32, 2.0, flip=False), base=base, example_inputs=inputs)
    assert same["first.weight"].init_mult == 1.0 and not same.hooks
    undone = hpt.make_plan(Loop(32, 8.0, flip=True), base=Loop(8, 4.0, flip=True), example_inputs=inputs)
    assert any("mul by 8 in the root module is 4 at the base" in why for row in undone for why in row.why)


def test_a_branch_that_base_or_target_alone_takes_is_refused_by_name() -> None:
    class Net(nn.Module):
        def __init__(self, width: int, left: bool) -> None:
            super().__init__()
            self.left, self.a, self.b = left, nn.Linear(PIXELS, width), nn.Linear(PIXELS, width)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if (x.square().sum() > 0) == self.left else self.b(x)

    with pytest.raises(UsageError, match=r"'a.weight' is used as .* of the base is not"):
        hpt.make_plan(Net(32, True), base=Net(8, False), example_inputs=(ROWS,))
    with pytest.raises(UsageError, match=r"'b.weight' is never used in the traced forward"):
        hpt.make_plan(Net(32, True), base=Net(8, True), example_inputs=(ROWS,))


class Deep(Fork):
    """A fork behind as many residual layers as asked for."""

    def __init__(self, width: int, *, left: bool, depth: int) -> None:
        super().__init__(width, left=left)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x.tanh())
        return self.last(x * 0.5 if (x.square().sum() > 0) == self.left else x.tanh() * x.shape[-1])


def test_at_another_depth_numbers_of_sites_may_differ_and_constants_may_not() -> None:
    torch.manual_seed(0)
    same = hpt.make_plan(Deep(32, left=True, depth=4), base=Deep(8, left=True, depth=2), example_inputs=(ROWS,))
    assert {"layers.0.weight", "layers.3.weight"} <= set(same.rows)
    with pytest.raises(UsageError, match="along different branches in the root module: their constants do not"):
        hpt.make_plan(Deep(32, left=True, depth=4), base=Deep(8, left=False, depth=2), example_inputs=(ROWS,))
