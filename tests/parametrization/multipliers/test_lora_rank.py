"""A LoRA's rank as an axis: behind alpha / r the rate stays, behind alpha alone it goes as 1/r (2602.06204)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt
from hptransfer.core.statistics import power

WIDTH, RANKS = 64, (16, 32, 64, 128)


class Adapted(nn.Module):
    """A frozen matrix and B A beside it, with B zero at the start."""

    def __init__(self, rank: int, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(False)
        self.a, self.b, self.scale = nn.Linear(WIDTH, rank, bias=False), nn.Linear(rank, WIDTH, bias=False), scale
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight(x) + self.b(self.a(x)) * self.scale


SCALES: dict[str, Callable[[int], float]] = {
    "alpha / r": lambda rank: 16 / rank,
    "alpha / r^1/2": lambda rank: 8 / rank**0.5,
    "alpha": lambda rank: 4.0,
}


def change(rank: int, scale: Callable[[int], float], optimizer: type[torch.optim.Optimizer], *, planned: bool) -> float:
    """Root mean square of what ten steps do to the outputs."""
    model, base = Adapted(rank, scale(rank)), Adapted(RANKS[0], scale(RANKS[0]))
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(64, 1, generator=draw) * torch.randn(WIDTH, generator=draw)  # one direction: every step is aligned
    y = 4 * x
    lr = 1e-3 if optimizer is torch.optim.AdamW else 1e-2
    plan = hpt.make_plan(model, base=base, example_inputs=(x,), optimizer=optimizer)
    groups = hpt.param_groups(model, plan, lr=lr, weight_decay=0.0) if planned else model.parameters()
    stepping = optimizer(groups, lr=lr)
    before = model(x).detach()
    for _ in range(10):
        stepping.zero_grad()
        (model(x) - y).square().mean().backward()
        stepping.step()
    return float((model(x) - before).detach().square().mean().sqrt())


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", SCALES)
def test_ten_steps_change_outputs_as_much_at_every_rank(name, optimizer):
    changes = [change(rank, SCALES[name], optimizer, planned=True) for rank in RANKS]
    assert abs(power(RANKS, changes)) < 0.15, changes


def test_with_alpha_alone_the_same_rate_would_change_them_more_with_every_rank():
    changes = [change(rank, SCALES["alpha"], torch.optim.AdamW, planned=False) for rank in RANKS]
    assert power(RANKS, changes) > 0.6, changes


@pytest.mark.parametrize(("name", "lr"), [("alpha / r", 1.0), ("alpha / r^1/2", 8**-0.5), ("alpha", 1 / 8)])
def test_the_rate_of_b_stays_or_goes_as_one_over_the_rank(name, lr):
    scale = SCALES[name]
    inputs = (torch.randn(8, WIDTH),)
    plan = hpt.make_plan(Adapted(32, scale(32)), base=Adapted(4, scale(4)), example_inputs=inputs)
    assert plan.rows["b.weight"].lr_mult == pytest.approx(lr) and plan.rows["a.weight"].lr_mult == 1.0
