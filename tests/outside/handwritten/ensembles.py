"""Ensembles: members under torch.vmap, members averaged while their number grows, BatchEnsemble's rank-one factors."""

from __future__ import annotations

import copy

import torch
from outside.family import CLASSES, Outside, normal
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class _Vmapped(nn.Module):
    """Stacked parameters of four MLPs, called by torch.vmap over functional_call."""

    def __init__(self, width: int, members: int = 4) -> None:
        super().__init__()
        nets = [_mlp(width) for _ in range(members)]
        self._skeleton = [copy.deepcopy(nets[0]).to("meta")]
        stacked, _ = stack_module_state(nets)
        self.members = nn.ParameterDict(
            {k.replace(".", "_"): nn.Parameter(v.detach().clone()) for k, v in stacked.items()}
        )
        self._names = {k.replace(".", "_"): k for k in stacked}

    def forward(self, x: Tensor) -> Tensor:
        weights = {self._names[k]: v for k, v in self.members.items()}
        return torch.vmap(lambda w: functional_call(self._skeleton[0], w, (x,)))(weights).mean(0)


class _Averaged(nn.Module):
    """As many small networks as the width has sixteenths, averaged: the number of members grows, not their size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.members = width // 16
        self.up = nn.Parameter(torch.randn(self.members, 8, 16) * 8**-0.5)
        self.mid = nn.Parameter(torch.randn(self.members, 16, 16) * 16**-0.5)
        self.down = nn.Parameter(torch.randn(self.members, 16, CLASSES) * 16**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(torch.einsum("bi,mij->mbj", x, self.up))
        h = torch.relu(torch.bmm(h, self.mid))
        return torch.bmm(h, self.down).mean(0)


class _Batched(nn.Module):
    """BatchEnsemble (2002.06715): one matrix, two sign vectors per member."""

    def __init__(self, width: int, members: int = 4) -> None:
        super().__init__()
        self.embed, self.shared, self.readout = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, CLASSES)
        self.left, self.right = (nn.Parameter(torch.randn(members, width).sign()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.embed(x))[:, None] * self.left
        return self.readout(torch.relu(self.shared(h) * self.right)).mean(1)


class _BranchSum(nn.Module):
    """A network of fixed members summed, each of a growing width."""

    def __init__(self, width: int, members: int = 4) -> None:
        super().__init__()
        self.members = nn.ModuleList(_mlp(width) for _ in range(members))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def _mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))


def _inputs() -> tuple[Tensor]:
    return (normal(8),)


ENSEMBLES = (
    Outside("hand-vmap-ensemble", "handwritten", "torch", lambda width, depth: _Vmapped(width), _inputs),
    Outside("hand-averaged-ensemble", "handwritten", "torch", lambda width, depth: _Averaged(width), _inputs),
    Outside("hand-batch-ensemble", "handwritten", "torch", lambda width, depth: _Batched(width), _inputs),
    Outside("hand-stacked-members", "handwritten", "torch", lambda width, depth: _BranchSum(width), _inputs),
)
