"""Inputs, a model whose way depends on its data, and the plan of a model for tests of traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hptransfer as hpt
from tests.cases.models import CONTEXT, PIXELS

TOKENS = torch.arange(2 * CONTEXT).view(2, CONTEXT) % 17


ROWS = torch.randn(6, PIXELS, generator=torch.Generator().manual_seed(0))

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def plan_of(build: Callable[[int], nn.Module], inputs: Any, **options: Any) -> hpt.Plan:
    torch.manual_seed(0)
    base = build(8)
    return hpt.make_plan(build(32), base=base, example_inputs=inputs, **options)


class Branching(nn.Module):
    """Two hidden layers; `free` writes the same computation without looking at the data."""

    def __init__(self, width: int, how: str, *, free: bool) -> None:
        super().__init__()
        self.how, self.free = how, free
        self.first, self.hidden, self.last = nn.Linear(PIXELS, width), nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(torch.relu(self.first(x)))
        return self.last(x if self.free else getattr(self, self.how)(x))

    def branch(self, x: Tensor) -> Tensor:
        return x if x.square().sum() > 0 else -self.hidden(x)

    def item(self, x: Tensor) -> Tensor:
        return x if x.abs().max().item() < 1e9 else x.clamp(-1e9, 1e9)

    def numpy(self, x: Tensor) -> Tensor:
        order = torch.from_numpy(np.argsort(x.detach().numpy().sum(-1)))
        return x[order]

    def tolist(self, x: Tensor) -> Tensor:
        return torch.stack([x[i] for i in x.sum(-1).argsort().tolist()])

    def nonzero(self, x: Tensor) -> Tensor:
        return x[(x.sum(-1) > x.sum(-1).mean()).nonzero()[:, 0]]
