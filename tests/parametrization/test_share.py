"""A base whose branches make most of its stream is told from one in the limit of many layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hptransfer as hpt


class Stack(nn.Module):
    """A stream of ones times `start`, to which every layer adds ones."""

    def __init__(self, layers: int, start: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(layers))
        self.first = nn.Linear(4, 4)
        for layer, bias in [(self.first, start), *((layer, 1.0) for layer in self.layers)]:
            nn.init.constant_(layer.weight, 1e-6)
            nn.init.constant_(layer.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x)
        return x


@pytest.mark.parametrize(("start", "said"), [(8.0, False), (1.0, True)])
def test_what_the_branches_add_is_measured_against_the_stream_s_start(start: float, said: bool) -> None:
    """Four layers add four: half of eight, four times one."""
    inputs = {"example_inputs": (torch.ones(2, 4),), "scheme": "completep"}
    notes = hpt.make_plan(Stack(16, start), base=Stack(4, start), **inputs).notes
    assert any("add 4 times what it starts with" in note for note in notes) == said
    assert not any(
        "starts with" in note for note in hpt.make_plan(Stack(4, start), base=Stack(4, start), **inputs).notes
    )
